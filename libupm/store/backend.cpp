// SPDX-License-Identifier: MIT
#include "libupm/store/backend.hpp"

#include "libupm/base/system.hpp"
#include "libupm/mm/layout.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fcntl.h>
#include <optional>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

namespace upm {

namespace {

using store::DomainKey;

// What a domain's descriptor refers to: a sealed memfd with this content. It can
// be passed on, and tells nobody the key who does not hold it.
struct DomainFile {
    char magic[16];
    std::uint8_t key[16];
};
constexpr char kDomainMagic[16] = "upm-domain-key1";
constexpr int kDomainSeals = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL;

int read_domain(int fd, DomainKey &domain) noexcept {
    domain = {};
    if (fd < 0)
        return 0;
    DomainFile file{};
    const int seals = ::fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & kDomainSeals) != kDomainSeals ||
        ::pread(fd, &file, sizeof(file), 0) != static_cast<ssize_t>(sizeof(file)) ||
        std::memcmp(file.magic, kDomainMagic, sizeof(file.magic)) != 0)
        return -EBADF;
    domain.named = true;
    std::memcpy(domain.key, file.key, sizeof(domain.key));
    return 0;
}

// Whether a part holds memory that the calling thread needs while that is frozen:
// the stack around here, and its thread control block with errno and what the
// kernel keeps there for it (rseq). In a thread of glibc one lies above the other.
bool holds_this_thread(const Vma &part) noexcept {
    constexpr std::uint64_t kStack = 256UL * 1024;
    constexpr std::uint64_t kBlock = 4096; // sizeof(struct pthread) is about 2300
    const char local = 0;
    const auto here = reinterpret_cast<std::uint64_t>(&local);
    const auto block = static_cast<std::uint64_t>(::pthread_self());
    const auto error = reinterpret_cast<std::uint64_t>(&errno);
    const auto overlaps = [&](std::uint64_t start, std::uint64_t end) {
        return part.start < end && start < part.end;
    };
    return overlaps(here - kStack, here + kStack) || overlaps(block, block + kBlock) ||
           overlaps(error, error + sizeof(errno));
}

// Whether a mapping is none that can be replaced by one of a segment without a
// difference to the program; see the table in docs/store.md.
bool excluded(const Vma &vma, unsigned &reason) noexcept {
    struct Rule {
        std::uint32_t flags;
        unsigned reason;
    };
    constexpr Rule kRules[] = {
        {kVmaHugetlb, UPM_SKIPPED_HUGETLB},
        {kVmaShared, UPM_SKIPPED_SHARED},
        {kVmaSecret, UPM_SKIPPED_SECRET},
        {kVmaUffd, UPM_SKIPPED_UFFD},
        {kVmaHeap | kVmaStack | kVmaLocked | kVmaDontfork | kVmaKey, UPM_SKIPPED_UNSUPPORTED},
        // Last, since the module makes special what it merges: a stack stays a stack.
        {kVmaSpecial, UPM_SKIPPED_SPECIAL},
    };
    for (const Rule &rule : kRules) {
        if ((vma.flags & rule.flags) != 0) {
            reason = rule.reason;
            return true;
        }
    }
    reason = (vma.flags & kVmaFile) != 0 && (vma.flags & kVmaSegment) == 0
                 ? UPM_SKIPPED_FILE
                 : UPM_SKIPPED_UNSUPPORTED;
    return reason == UPM_SKIPPED_FILE || (vma.protection & PROT_READ) == 0 ||
           (vma.protection & PROT_EXEC) != 0 || holds_this_thread(vma);
}

void count_skipped(std::uint64_t bytes, unsigned reason, upm_counts &counts) noexcept {
    counts.pages += bytes / page_size();
    counts.skipped[reason] += bytes / page_size();
}

std::uint32_t run_limit() noexcept {
    constexpr std::uint32_t kShare = 4; // the rest is the program's
    constexpr std::uint32_t kDefault = 65'530;
    std::uint32_t maximum = kDefault;
    char text[32];
    const int fd = ::open("/proc/sys/vm/max_map_count", O_RDONLY | O_CLOEXEC);
    const ssize_t got = fd >= 0 ? ::read(fd, text, sizeof(text)) : -1;
    if (fd >= 0)
        ::close(fd);
    if (got > 0)
        (void)std::from_chars(text, text + got, maximum);
    return maximum / kShare;
}

void explain(int error, const char *path, Reason &reason) noexcept {
    switch (error) {
    case -ENOENT:
    case -ECONNREFUSED:
        reason.set("no broker at %s, and no program upmd to start (install it, or run upmd)", path);
        break;
    case -EACCES:
    case -EPERM:
        reason.set("%s is served by another user, or not for this one", path);
        break;
    default:
        reason.set("broker at %s: %s", path, std::strerror(-error));
    }
}

// The mappings of a call's range: those that the caller has looked up before, or the
// one that can be recognized without the kernel's walk over every page, or anew.
class Mappings {
  public:
    explicit Mappings(const Call &call) noexcept {
        // What is merged is found by its flags, which the call itself may have changed.
        if (!call.unmerge && call.layout != nullptr)
            known_ = call.layout->covering(call.addr, call.addr + call.len);
        if (known_.empty() && !call.unmerge &&
            find_plain_vma(call.addr, call.addr + call.len, plain_))
            known_ = {&plain_, 1};
        if (known_.empty())
            smaps_.emplace("/proc/self/smaps");
    }
    Mappings(const Mappings &) = delete;
    Mappings &operator=(const Mappings &) = delete;
    ~Mappings() = default;

    bool next(Vma &vma) noexcept {
        if (smaps_)
            return smaps_->next(vma);
        if (known_.empty())
            return false;
        vma = known_.front();
        known_ = known_.subspan(1);
        return true;
    }

    [[nodiscard]] int error() const noexcept { return smaps_ ? smaps_->error() : 0; }

  private:
    Vma plain_;
    std::span<const Vma> known_;
    std::optional<SmapsReader> smaps_;
};

} // namespace

int StoreBackend::open(Reason &reason) noexcept {
    store::SocketPath path;
    int ret = store::find_socket(path);
    if (ret != 0) {
        reason.set("UPM_SOCKET is longer than a socket's name may be (%zu bytes)",
                   sizeof(path.text) - 1);
        return ret;
    }
    const int pagemap = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (pagemap < 0) {
        reason.set("/proc/self/pagemap: %s (mount /proc)", std::strerror(errno));
        return -EOPNOTSUPP;
    }
    ::close(pagemap);
    path_ = path;
    mode_ = store::find_freeze_mode();
    budget_.limit = run_limit();
    std::size_t slot = 0;
    ret = pool_.acquire(path_, {}, slot);
    if (ret != 0) {
        explain(ret, path_.text, reason);
        return ret;
    }
    pool_.put_back(slot);
    reason.set("broker at %s, freezes by %s%s", path_.text, store::freeze_mode_name(mode_),
               mode_ == store::FreezeMode::kKernel
                   ? ""
                   : ": only memory vouched for as quiescent (UPM_QUIESCENT)");
    return 0;
}

// The program may have unmapped what was merged. Looked at only when it matters.
void StoreBackend::recount_runs() noexcept {
    if (budget_.used.load() < store::RunBudget::kFree / 2)
        return;
    SmapsReader maps("/proc/self/maps");
    std::uint32_t runs = 0;
    for (Vma vma; maps.next_header(vma);)
        runs += (vma.flags & kVmaSegment) != 0 ? 1U : 0U;
    if (maps.error() == 0)
        budget_.used.store(runs);
}

int StoreBackend::run_parts(const Call &call, store::Merger &merger, upm_counts &counts) noexcept {
    const std::uint64_t end = call.addr + call.len;
    std::uint64_t next = call.addr;
    Mappings mappings(call);
    Vma vma;
    while (next < end && mappings.next(vma)) {
        if (vma.end <= next)
            continue;
        if (vma.start >= end)
            break;
        Vma part = vma;
        part.start = std::max(vma.start, next);
        part.end = std::min(vma.end, end);
        if (part.start > next) // went away after the check for holes
            count_skipped(part.start - next, UPM_SKIPPED_UNMAPPED, counts);
        next = part.end;
        unsigned reason = 0;
        int ret = 0;
        if (call.unmerge && (vma.flags & kVmaSegment) == 0) {
            counts.pages += (part.end - part.start) / page_size();
            counts.kept += (part.end - part.start) / page_size();
        } else if (excluded(part, reason)) {
            count_skipped(part.end - part.start, reason, counts);
        } else {
            ret = call.unmerge ? merger.unmerge(part) : merger.advise(part);
        }
        if (ret != 0)
            return ret;
    }
    if (mappings.error() != 0)
        return mappings.error();
    count_skipped(end - next, UPM_SKIPPED_UNMAPPED, counts);
    return merger.error();
}

int StoreBackend::run(const Call &call, upm_counts &counts) noexcept {
    // Here, since `counts` may lie in the range: nothing there can be written to
    // while it is frozen.
    upm_counts done{};
    const std::uint64_t start = now_ns();
    DomainKey domain;
    int ret = read_domain(call.domain_fd, domain);
    if (ret != 0)
        return ret;
    // MS_ASYNC does nothing but to look for holes, far faster than /proc does.
    if (::msync(reinterpret_cast<void *>(call.addr), call.len, MS_ASYNC) != 0)
        return -errno;
    recount_runs();
    {
        store::Merger merger(
            {.path = path_, .pool = pool_, .budget = budget_, .mode = mode_, .gate = call.gate},
            done);
        ret = merger.begin();
        if (ret == 0 && !call.unmerge)
            ret = merger.connect(domain);
        if (ret == 0)
            ret = merger.enter();
        if (ret == 0)
            ret = run_parts(call, merger, done);
    }
    done.nanoseconds = now_ns() - start;
    counts = done;
    return ret;
}

int StoreBackend::open_domain(const std::uint8_t (&key)[16]) noexcept {
    DomainFile file{};
    std::memcpy(file.magic, kDomainMagic, sizeof(file.magic));
    std::memcpy(file.key, key, sizeof(file.key));
    const int fd = ::memfd_create("upm-domain", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    int error = 0;
    if (::pwrite(fd, &file, sizeof(file), 0) != static_cast<ssize_t>(sizeof(file)))
        error = ENOSPC;
    else if (::fcntl(fd, F_ADD_SEALS, kDomainSeals) != 0)
        error = errno;
    if (error == 0)
        return fd;
    ::close(fd);
    return -error;
}

int StoreBackend::stats(int domain_fd, struct upm_stats &stats) noexcept {
    DomainKey domain;
    int ret = read_domain(domain_fd, domain);
    if (ret != 0)
        return ret;
    std::size_t slot = 0;
    ret = pool_.acquire(path_, domain, slot);
    if (ret != 0)
        return ret;
    store::StatsReply reply{};
    ret = pool_.at(slot).stats(reply);
    if (ret == -ECONNRESET && pool_.reopen(path_, slot) == 0)
        ret = pool_.at(slot).stats(reply);
    pool_.put_back(slot);
    if (ret != 0)
        return ret;
    stats.pages_shared = reply.pages_shared;
    stats.pages_sharing = reply.pages_sharing;
    stats.pages_unused = reply.pages_unused;
    stats.max_pages = reply.max_pages;
    stats.metadata_bytes = reply.metadata_bytes;
    return 0;
}

int StoreBackend::describe(std::span<char> text) noexcept {
    std::size_t slot = 0;
    int ret = pool_.acquire(path_, {}, slot);
    if (ret != 0)
        return ret;
    void *const memory = ::mmap(nullptr, store::kMaxPacket, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        ret = -errno;
    } else {
        const std::span packet(static_cast<std::byte *>(memory), store::kMaxPacket);
        ret = pool_.at(slot).metrics(packet);
        if (ret == -ECONNRESET && pool_.reopen(path_, slot) == 0)
            ret = pool_.at(slot).metrics(packet);
        if (ret > 0) {
            ret = static_cast<int>(std::min(text.size(), static_cast<std::size_t>(ret)));
            std::memcpy(text.data(), memory, static_cast<std::size_t>(ret));
        }
        (void)::munmap(memory, store::kMaxPacket);
    }
    pool_.put_back(slot);
    return ret;
}

} // namespace upm
