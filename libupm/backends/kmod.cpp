// SPDX-License-Identifier: MIT
#include "libupm/backends/kmod.hpp"

#include "kmod/uapi/upm.h"
#include "libupm/backends/torn_pages.hpp"
#include "libupm/base/plain_read.hpp"
#include "libupm/base/system.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace upm {

namespace {

static_assert(int{UPM_SKIPPED_NR} == int{UPM_SKIP_SLOTS}, "one slot for each of the kernel's");
static_assert(int{UPM_SKIPPED_PRESENT} == int{UPM_SKIP_PRESENT});
static_assert(int{UPM_SKIPPED_UNSUPPORTED} >= int{UPM_SKIP_NR},
              "the library's own reason must not hide one of the kernel's");

void explain_open(int error, Reason &reason) noexcept {
    switch (error) {
    case -ENOENT:
        reason.set("no " UPM_DEVICE ": the module is not loaded (modprobe upm)");
        break;
    case -ENXIO:
    case -ENODEV:
        reason.set(UPM_DEVICE " has no driver: the module is not loaded (modprobe upm)");
        break;
    case -EACCES:
    case -EPERM:
        reason.set(UPM_DEVICE ": %s (its mode decides who may merge)", std::strerror(-error));
        break;
    default:
        reason.set(UPM_DEVICE ": %s", std::strerror(-error));
    }
}

// Counts of two passes over one range: what the first pass did, the second one
// found already done, unless a write undid it in between.
void add_pass(const upm_counts &first, upm_counts &total) noexcept {
    std::uint64_t left = total.already; // of those, what the first pass did
    const auto take = [&left](std::uint64_t count, std::uint64_t &into) {
        const std::uint64_t took = std::min(count, left);
        into += took;
        left -= took;
    };
    take(first.merged, total.merged);
    take(first.inserted, total.inserted);
    take(first.zero, total.zero);
    total.already = left;
    total.nanoseconds += first.nanoseconds;
}

void take_counts(const upm_ioc_counts &from, upm_counts &to) noexcept {
    to.pages = from.pages;
    to.merged = from.merged;
    to.inserted = from.inserted;
    to.zero = from.zero;
    to.already = from.already;
    to.unmerged = from.unmerged;
    to.kept = from.kept;
    for (int i = 0; i < UPM_SKIP_SLOTS; ++i)
        to.skipped[i] = from.skipped[i];
    to.nanoseconds = from.nanoseconds;
}

} // namespace

int KernelDevice::open() noexcept {
    const int fd = ::open(UPM_DEVICE, O_RDWR | O_CLOEXEC);
    return fd >= 0 ? fd : -errno;
}

void KernelDevice::close(int fd) noexcept {
    ::close(fd);
}

int KernelDevice::ioctl(int fd, unsigned long request, void *argument) noexcept {
    const int ret = ::ioctl(fd, request, argument);
    return ret >= 0 ? ret : -errno;
}

bool KernelDevice::is_open(int fd) noexcept {
    return ::fcntl(fd, F_GETFD) >= 0;
}

void KernelDevice::split(int pid, std::uint64_t addr, std::uint64_t len) noexcept {
    split_huge_pages(pid, addr, len);
}

// Each side tells its version: the module may refuse a library that it does not
// know (the version goes in), and the library refuses a module (it comes back).
int KmodBackend::handshake(int fd, Reason &reason, Capabilities &found) noexcept {
    upm_ioc_info info{};
    info.abi_version = UPM_ABI_VERSION;
    const int ret = device_.ioctl(fd, UPM_IOC_INFO, &info);
    if (ret < 0) {
        reason.set(UPM_DEVICE " refuses UPM_IOC_INFO of ABI version %d: %s", UPM_ABI_VERSION,
                   std::strerror(-ret));
        return ret;
    }
    info.version[sizeof(info.version) - 1] = '\0';
    if (info.abi_version != UPM_ABI_VERSION) {
        reason.set("module %s has ABI version %u, this library has %d: install matching versions",
                   info.version, info.abi_version, UPM_ABI_VERSION);
        return -EPROTONOSUPPORT;
    }
    const long page_size = ::sysconf(_SC_PAGESIZE);
    if (info.page_size != static_cast<unsigned long>(page_size)) {
        reason.set("module %s has pages of %u bytes, this process of %ld", info.version,
                   info.page_size, page_size);
        return -EPROTONOSUPPORT;
    }

    found.advise = true;
    found.immediate = true;
    found.load = (info.features & UPM_FEATURE_LOAD) != 0 ? 2 : 1;
    found.remote = (info.features & UPM_FEATURE_REMOTE) != 0;
    found.file_pages = (info.features & UPM_FEATURE_FILE_PAGES) != 0;
    found.domains = (info.features & UPM_FEATURE_DOMAINS) != 0;
    found.unmerge =
        (info.features & UPM_FEATURE_UNMERGE) != 0 && (info.advise_flags & UPM_ADVISE_UNMERGE) != 0;
    found.dry_run =
        (info.features & UPM_FEATURE_DRY_RUN) != 0 && (info.advise_flags & UPM_ADVISE_DRY_RUN) != 0;

    // Not a failure: an administrator who switches merging off does not want
    // another mechanism instead, and may switch it on again at any time.
    reason.set("module %s, ABI version %u%s", info.version, info.abi_version,
               info.enabled != 0 ? "" : ", disabled by /sys/kernel/upm/enabled");
    return 0;
}

int KmodBackend::open(Reason &reason) noexcept {
    const int fd = device_.open();
    if (fd < 0) {
        explain_open(fd, reason);
        return fd;
    }
    Capabilities found;
    const int ret = handshake(fd, reason, found);
    int none = -1;
    if (ret == 0 && fd_.compare_exchange_strong(none, fd)) {
        capabilities_ = found;
        return 0;
    }
    device_.close(fd); // refused, or a second look at what is open already
    return ret;
}

// Whether the program closed our descriptor (daemons close them all), or put
// another file in its place. EBADF alone may also mean the call's domain_fd.
bool KmodBackend::lost(int fd, int error) noexcept {
    return error == -ENOTTY || (error == -EBADF && !device_.is_open(fd));
}

// The descriptor survives fork: the module works on the caller's address space
// and rights, not on those of who opened it, so a child needs no new one, which
// its sandbox might forbid.
int KmodBackend::call(unsigned long request, void *argument) noexcept {
    int fd = fd_.load();
    const int ret = device_.ioctl(fd, request, argument);
    if (ret >= 0 || !lost(fd, ret))
        return ret;

    Reason reason;
    Capabilities found;
    const int fresh = device_.open();
    if (fresh < 0)
        return ret;
    // The lost number is not closed: it belongs to someone else now, or to nobody.
    if (handshake(fresh, reason, found) != 0 || !fd_.compare_exchange_strong(fd, fresh))
        device_.close(fresh);
    return device_.ioctl(fd_.load(), request, argument);
}

// The module can split a huge page that is mapped as one, but not one that has been
// torn: mapped page by page since a part of it was unmapped, moved or protected.
int KmodBackend::run(const Call &call, upm_counts &counts) noexcept {
    const int ret = advise(call, counts);
    if (ret != 0 || call.unmerge || call.dry_run || counts.skipped[UPM_SKIP_COMPOUND] == 0)
        return ret;
    const upm_counts first = counts;
    device_.split(call.pid, call.addr, call.len);
    counts = {};
    const int again = advise(call, counts);
    if (again == 0)
        add_pass(first, counts);
    else
        counts = first;
    return again;
}

// The module shares while it reads. What it leaves, for whatever reason, is read plainly,
// which also tells an end of the file from an error.
std::int64_t KmodBackend::load(const LoadCall &call, upm_load_counts &counts) noexcept {
    if (capabilities_.load < 2)
        return read_and_merge(call, counts);
    upm_ioc_load argument{};
    argument.fd = call.fd;
    argument.domain_fd = call.domain_fd;
    argument.offset = call.offset;
    argument.addr = reinterpret_cast<std::uint64_t>(call.into);
    argument.len = call.len;
    const std::size_t done = this->call(UPM_IOC_LOAD, &argument) < 0 ? 0 : argument.done;
    std::int64_t rest = 0;
    if (done < call.len)
        rest = plain_read(call.fd, call.offset + done, call.into + done, call.len - done);
    if (rest < 0 && done == 0)
        return rest;
    const std::size_t all = done + static_cast<std::size_t>(std::max<std::int64_t>(rest, 0));
    if (done != 0) {
        counts.shared = (argument.counts.merged + argument.counts.zero) * page_size();
        counts.made = argument.counts.inserted * page_size();
    }
    counts.copied = all - counts.shared - counts.made;
    return static_cast<std::int64_t>(all);
}

// For a module that cannot load: reads and merges block by block, so that no more than
// one block is held twice.
std::int64_t KmodBackend::read_and_merge(const LoadCall &call, upm_load_counts &counts) noexcept {
    constexpr std::size_t kBlock = 2UL << 20;
    const std::uint64_t mask = page_size() - 1;
    std::size_t done = 0;
    while (done < call.len) {
        const auto start = reinterpret_cast<std::uint64_t>(call.into + done);
        // Blocks end where huge pages may begin.
        const std::size_t wanted = std::min<std::size_t>(call.len - done, kBlock - start % kBlock);
        const std::int64_t got = plain_read(call.fd, call.offset + done, call.into + done, wanted);
        if (got < 0)
            return done != 0 ? static_cast<std::int64_t>(done) : got;
        done += static_cast<std::size_t>(got);
        const std::uint64_t first = (start + mask) & ~mask;
        const std::uint64_t end = (start + static_cast<std::uint64_t>(got)) & ~mask;
        upm_counts merged{};
        if (end > first) // what cannot be merged stays as it was read
            (void)run({.addr = first, .len = end - first, .domain_fd = call.domain_fd}, merged);
        counts.shared += (merged.merged + merged.zero + merged.already) * page_size();
        counts.made += merged.inserted * page_size();
        if (static_cast<std::size_t>(got) < wanted)
            break;
    }
    counts.copied = done - counts.shared - counts.made;
    return static_cast<std::int64_t>(done);
}

int KmodBackend::advise(const Call &call, upm_counts &counts) noexcept {
    upm_ioc_advise argument{};
    argument.flags =
        (call.unmerge ? UPM_ADVISE_UNMERGE : 0U) | (call.dry_run ? UPM_ADVISE_DRY_RUN : 0U);
    argument.pid = call.pid;
    argument.domain_fd = call.domain_fd;
    argument.addr = call.addr;
    argument.len = call.len;
    const int ret = this->call(UPM_IOC_ADVISE, &argument);
    take_counts(argument.counts, counts); // on error too: what was done until then
    return ret < 0 ? ret : 0;
}

int KmodBackend::open_domain(const std::uint8_t (&key)[16]) noexcept {
    upm_ioc_domain argument{};
    std::memcpy(argument.key, key, sizeof(key));
    const int ret = call(UPM_IOC_DOMAIN_OPEN, &argument);
    return ret < 0 ? ret : argument.fd;
}

int KmodBackend::stats(int domain_fd, struct upm_stats &stats) noexcept {
    upm_ioc_stats argument{};
    argument.domain_fd = domain_fd;
    const int ret = call(UPM_IOC_STATS, &argument);
    if (ret < 0)
        return ret;
    stats.pages_shared = argument.pages_shared;
    stats.pages_sharing = argument.pages_sharing;
    stats.pages_unused = argument.pages_unused;
    stats.max_pages = argument.max_pages;
    stats.metadata_bytes = argument.metadata_bytes;
    return 0;
}

} // namespace upm
