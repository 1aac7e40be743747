// SPDX-License-Identifier: MIT
//
// /dev/upm and /sys/kernel/upm as they are: a thin layer over kmod/uapi/upm.h,
// not the library, since the interface itself is under test.
#ifndef UPM_TESTS_KMOD_SUPPORT_DEVICE_HPP
#define UPM_TESTS_KMOD_SUPPORT_DEVICE_HPP

#include "kmod/uapi/upm.h"
#include "tests/support/file.hpp"

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include <sys/types.h>

namespace upm::test {

// What a call said.
struct Advice {
    int error = 0; // errno, 0: success
    upm_ioc_counts counts{};

    [[nodiscard]] std::uint64_t skipped(upm_skip reason) const { return counts.skipped[reason]; }
    [[nodiscard]] std::uint64_t skipped_all() const;
    // Pages that are shared or dropped now.
    [[nodiscard]] std::uint64_t done() const {
        return counts.merged + counts.inserted + counts.zero + counts.already;
    }
};

// What a load said.
struct Loaded {
    int error = 0; // errno, 0: success
    std::uint64_t done = 0;
    std::uint64_t copied = 0;
    upm_ioc_counts counts{};

    // Pages that share, or need no memory.
    [[nodiscard]] std::uint64_t shared() const {
        return counts.merged + counts.inserted + counts.zero;
    }
};

struct AdviseOptions {
    std::uint32_t flags = 0; // UPM_ADVISE_*
    pid_t pid = 0;
    int domain = -1;
};

class Device {
  public:
    Device(); // throws if there is none
    explicit Device(Fd fd) : fd_(std::move(fd)) {}

    [[nodiscard]] int fd() const { return fd_.get(); }

    // Also expects the identity of the counts to hold, whatever the result.
    [[nodiscard]] Advice advise(const void *addr, std::size_t len,
                                const AdviseOptions &options = {}) const;
    [[nodiscard]] Advice unmerge(const void *addr, std::size_t len,
                                 AdviseOptions options = {}) const;
    // As pread(2). Also expects what holds for all loads.
    [[nodiscard]] Loaded load(int fd, std::uint64_t offset, void *into, std::size_t len,
                              int domain = -1) const;
    [[nodiscard]] upm_ioc_info info() const;
    [[nodiscard]] upm_ioc_stats stats(int domain = -1) const;

    // A named domain; empty with errno set if it cannot be had.
    [[nodiscard]] Fd domain(std::string_view key) const;

  private:
    Fd fd_;
};

// A key that no other test uses.
std::string fresh_key();

inline const std::string kSysfs = "/sys/kernel/upm/";

// A number in /sys/kernel/upm.
std::uint64_t statistic(const std::string &name);

// How many open files keep the module, and how many of them this process has.
std::uint64_t module_users();
std::uint64_t own_module_users();
// Those, and the processes that have them: a line each.
std::string describe_module_users();

// Frees what nobody maps.
void sweep();

// Sets a knob of /sys/kernel/upm (or the file of another absolute path) for as
// long as the object lives.
class Knob {
  public:
    Knob(const std::string &name, const std::string &value);
    Knob(const std::string &name, std::uint64_t value) : Knob(name, std::to_string(value)) {}
    ~Knob();
    Knob(const Knob &) = delete;
    Knob &operator=(const Knob &) = delete;

  private:
    std::string path_;
    std::string before_;
};

} // namespace upm::test

#endif // UPM_TESTS_KMOD_SUPPORT_DEVICE_HPP
