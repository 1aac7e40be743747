// SPDX-License-Identifier: MIT
//
// A made-up machine: processes below a folder that looks like /proc.
#ifndef UPM_TESTS_TOOLS_PSS_REPORT_ROOT_HPP
#define UPM_TESTS_TOOLS_PSS_REPORT_ROOT_HPP

#include "tests/support/support.hpp"
#include "tools/pss-report/read/collect.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace upm::tool::pss::test {

// kB, as /proc has them.
struct FakeMapping {
    std::string line; // as in maps
    std::uint64_t rss = 0;
    std::uint64_t pss = 0;
    std::uint64_t anonymous = 0;
    std::uint64_t private_dirty = 0;
    std::string flags = "rd wr mr mw me ac";
    std::uint64_t ksm = 0;
};

struct FakeProcess {
    int pid = 0;
    std::string name = "python3"; // as status has it: escaped
    unsigned uid = 0;
    std::string cgroup = "0::/\n";
    std::vector<FakeMapping> mappings = {};
    std::uint64_t rss_shmem = 0; // kB
};

class FakeRoot {
  public:
    FakeRoot();
    void add(const FakeProcess &process) const;
    void write(std::string_view name, std::string_view content) const { dir_.write(name, content); }
    void mkdir(std::string_view name) const { dir_.mkdir(name); }
    [[nodiscard]] const std::string &path() const { return dir_.path(); }
    [[nodiscard]] Snapshot collect(CollectOptions options = {}) const {
        return Collector(Root(dir_.path()), std::move(options)).collect();
    }

  private:
    upm::test::TempDir dir_;
};

// Three containers of a function, a shell, a kernel thread, a zombie, and one process
// with an odd name.
void populate(const FakeRoot &root);

// A snapshot of that without what differs between machines.
Snapshot fixed_snapshot(bool mappings);

} // namespace upm::tool::pss::test

#endif // UPM_TESTS_TOOLS_PSS_REPORT_ROOT_HPP
