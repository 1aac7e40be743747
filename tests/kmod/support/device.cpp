// SPDX-License-Identifier: MIT
#include "tests/kmod/support/device.hpp"

#include "tests/support/pattern.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <vector>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace upm::test {

namespace {

// The promise that the header makes about the counts of any call.
void expect_identity(const upm_ioc_advise &call, int error) {
    const upm_ioc_counts &c = call.counts;
    const std::uint64_t skipped =
        std::accumulate(std::begin(c.skipped), std::end(c.skipped), std::uint64_t{0});
    EXPECT_EQ(c.pages, c.merged + c.inserted + c.zero + c.already + c.unmerged + c.kept + skipped);
    EXPECT_EQ(c.pages, (c.next - call.addr) / kPage);
    if (error == 0) {
        EXPECT_EQ(c.next, call.addr + call.len);
    }
    for (std::size_t i = UPM_SKIP_NR; i < UPM_SKIP_SLOTS; i++)
        EXPECT_EQ(c.skipped[i], 0U) << "slot " << i;
}

// The files of the module that a process has open, by the names of their links.
std::vector<std::string> module_files(const std::filesystem::path &process) {
    std::vector<std::string> files;
    std::error_code gone; // the process, or the descriptor
    for (const auto &entry : std::filesystem::directory_iterator(process / "fd", gone)) {
        const std::string target = std::filesystem::read_symlink(entry.path(), gone).string();
        if (target.starts_with(UPM_DEVICE) || target.find("[upm-domain]") != std::string::npos)
            files.push_back(target);
    }
    return files;
}

// "12 (name) S 1": number, name, state and parent.
std::string name_process(const std::filesystem::path &process) {
    std::string stat;
    try {
        stat = read_file(process / "stat");
    } catch (const std::system_error &) {
        return process.filename().string() + " (gone)";
    }
    return stat.substr(0, stat.find(' ', stat.rfind(')') + 4));
}

} // namespace

std::uint64_t Advice::skipped_all() const {
    return std::accumulate(std::begin(counts.skipped), std::end(counts.skipped), std::uint64_t{0});
}

Device::Device() : fd_(must(::open(UPM_DEVICE, O_RDWR | O_CLOEXEC), UPM_DEVICE)) {}

Advice Device::advise(const void *addr, std::size_t len, const AdviseOptions &options) const {
    upm_ioc_advise call{};
    call.flags = options.flags;
    call.pid = options.pid;
    call.domain_fd = options.domain;
    call.addr = reinterpret_cast<std::uintptr_t>(addr);
    call.len = len;
    Advice advice;
    if (::ioctl(fd_.get(), UPM_IOC_ADVISE, &call) != 0)
        advice.error = errno;
    advice.counts = call.counts;
    if (advice.error == 0 || advice.counts.pages != 0)
        expect_identity(call, advice.error);
    return advice;
}

Advice Device::unmerge(const void *addr, std::size_t len, AdviseOptions options) const {
    options.flags |= UPM_ADVISE_UNMERGE;
    return advise(addr, len, options);
}

Loaded Device::load(int fd, std::uint64_t offset, void *into, std::size_t len, int domain) const {
    upm_ioc_load call{};
    call.fd = fd;
    call.domain_fd = domain;
    call.offset = offset;
    call.addr = reinterpret_cast<std::uintptr_t>(into);
    call.len = len;
    Loaded loaded;
    if (::ioctl(fd_.get(), UPM_IOC_LOAD, &call) != 0)
        loaded.error = errno;
    loaded.done = call.done;
    loaded.copied = call.copied;
    loaded.counts = call.counts;
    if (loaded.error != 0) {
        EXPECT_EQ(loaded.done, 0U);
        return loaded;
    }
    const upm_ioc_counts &c = call.counts;
    EXPECT_EQ(c.pages, loaded.shared() + std::accumulate(std::begin(c.skipped), std::end(c.skipped),
                                                         std::uint64_t{0}));
    EXPECT_EQ(c.next, call.addr + call.done);
    EXPECT_LE(call.done, call.len);
    EXPECT_EQ(call.done - call.copied, loaded.shared() * kPage);
    return loaded;
}

upm_ioc_info Device::info() const {
    upm_ioc_info info{};
    must(::ioctl(fd_.get(), UPM_IOC_INFO, &info), "UPM_IOC_INFO");
    return info;
}

upm_ioc_stats Device::stats(int domain) const {
    upm_ioc_stats stats{};
    stats.domain_fd = domain;
    must(::ioctl(fd_.get(), UPM_IOC_STATS, &stats), "UPM_IOC_STATS");
    return stats;
}

Fd Device::domain(std::string_view key) const {
    upm_ioc_domain call{};
    std::memcpy(call.key, key.data(), std::min(key.size(), sizeof(call.key)));
    return ::ioctl(fd_.get(), UPM_IOC_DOMAIN_OPEN, &call) == 0 ? Fd(call.fd) : Fd();
}

std::string fresh_key() {
    std::array<char, sizeof(upm_ioc_domain::key)> key{};
    Random random(fresh_seed());
    for (char &c : key)
        c = static_cast<char>(random.next());
    return {key.data(), key.size()};
}

std::uint64_t statistic(const std::string &name) {
    return std::stoull(read_file(kSysfs + name));
}

std::uint64_t module_users() {
    return std::stoull(read_file("/sys/module/upm/refcnt"));
}

std::uint64_t own_module_users() {
    return module_files("/proc/self").size();
}

std::string describe_module_users() {
    std::string lines = "users of the module: ";
    lines += exists("/sys/module/upm/refcnt") ? std::to_string(module_users()) : "it is not there";
    lines += "; this process is " + std::to_string(::getpid()) + "\n";
    for (const auto &entry : std::filesystem::directory_iterator("/proc")) {
        if (std::isdigit(static_cast<unsigned char>(entry.path().filename().string()[0])) == 0)
            continue;
        const std::vector<std::string> files = module_files(entry.path());
        if (!files.empty())
            lines += name_process(entry.path()) + ": " + std::to_string(files.size()) +
                     " open, the first is " + files.front() + "\n";
    }
    return lines;
}

void sweep() {
    EXPECT_EQ(write_file(kSysfs + "sweep", "1"), 0);
}

Knob::Knob(const std::string &name, const std::string &value)
    : path_(name.starts_with('/') ? name : kSysfs + name), before_(read_file(path_)) {
    // Choices show as `always [madvise] never`.
    if (const auto open = before_.find('['); open != std::string::npos)
        before_ = before_.substr(open + 1, before_.find(']') - open - 1);
    errno = write_file(path_, value);
    if (errno != 0)
        fail(path_);
}

Knob::~Knob() {
    // Not fatal in a destructor, but it would spoil what follows.
    EXPECT_EQ(write_file(path_, before_), 0) << path_;
}

} // namespace upm::test
