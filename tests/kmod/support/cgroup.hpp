// SPDX-License-Identifier: MIT
//
// A group of the memory controller, for the processes of a test.
#ifndef UPM_TESTS_KMOD_SUPPORT_CGROUP_HPP
#define UPM_TESTS_KMOD_SUPPORT_CGROUP_HPP

#include "tests/kmod/support/actor.hpp"
#include "tests/support/file.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include <sys/stat.h>
#include <unistd.h>

namespace upm::test {

// Empty where cgroup v2 has no memory controller.
class Cgroup {
  public:
    // Below another one, whose processes it then cannot have; or at the top.
    explicit Cgroup(const std::string &name, const Cgroup &parent) {
        EXPECT_EQ(write_file(parent.path_ + "/cgroup.subtree_control", "+memory"), 0);
        path_ = parent.path_ + "/" + name;
        must(::mkdir(path_.c_str(), 0755), "mkdir");
    }
    explicit Cgroup(const std::string &name = "group") {
        if (!exists("/sys/fs/cgroup/cgroup.controllers") ||
            read_file("/sys/fs/cgroup/cgroup.subtree_control").find("memory") == std::string::npos)
            return;
        path_ = "/sys/fs/cgroup/upm-test-" + std::to_string(::getpid()) + "-" + name;
        must(::mkdir(path_.c_str(), 0755), "mkdir");
    }
    ~Cgroup() {
        if (!path_.empty())
            eventually([&] { return ::rmdir(path_.c_str()) == 0; });
    }
    Cgroup(const Cgroup &) = delete;
    Cgroup &operator=(const Cgroup &) = delete;

    [[nodiscard]] explicit operator bool() const { return !path_.empty(); }
    void join(pid_t pid) const {
        EXPECT_EQ(write_file(path_ + "/cgroup.procs", std::to_string(pid)), 0);
    }
    [[nodiscard]] std::uint64_t current() const {
        return std::stoull(read_file(path_ + "/memory.current"));
    }
    // Without swap, which would take what is over, as much as it has time for.
    void limit(std::uint64_t bytes) const {
        if (exists(path_ + "/memory.swap.max")) {
            EXPECT_EQ(write_file(path_ + "/memory.swap.max", "0"), 0);
        }
        EXPECT_EQ(write_file(path_ + "/memory.max", std::to_string(bytes)), 0);
    }
    void unlimited() const { EXPECT_EQ(write_file(path_ + "/memory.max", "max"), 0); }
    [[nodiscard]] bool killed_any() const {
        return read_file(path_ + "/memory.events").find("oom_kill 0\n") == std::string::npos;
    }

  private:
    std::string path_;
};

} // namespace upm::test

#endif // UPM_TESTS_KMOD_SUPPORT_CGROUP_HPP
