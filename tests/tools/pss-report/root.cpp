// SPDX-License-Identifier: MIT
#include "tests/tools/pss-report/root.hpp"

#include <fmt/format.h>

namespace upm::tool::pss::test {

namespace {

// `count`: of how many mappings this is the sum; 0 for a single one.
std::string figures(const FakeMapping &mapping, std::size_t count) {
    const std::uint64_t rest = mapping.rss - mapping.private_dirty;
    std::string text;
    if (count == 0)
        text += "Size:               1024 kB\nKernelPageSize:        4 kB\n";
    text += fmt::format("Rss:     {:12} kB\nPss:     {:12} kB\n", mapping.rss, mapping.pss);
    text += fmt::format("Pss_Dirty:      0 kB\nShared_Clean:  {} kB\nShared_Dirty:   0 kB\n", rest);
    text += fmt::format("Private_Clean:  0 kB\nPrivate_Dirty: {} kB\n", mapping.private_dirty);
    text += fmt::format("Referenced:  0 kB\nAnonymous: {} kB\nKSM: {} kB\n", mapping.anonymous,
                        mapping.ksm);
    const std::size_t times = count == 0 ? 1 : count;
    return text + fmt::format("Swap: {} kB\nSwapPss: {} kB\nLocked: 0 kB\n", 8 * times, 4 * times);
}

std::string container(char digit) {
    return "0::/system.slice/docker-" + std::string(64, digit) + ".scope\n";
}

} // namespace

FakeRoot::FakeRoot() {
    dir_.mkdir("proc");
    dir_.write("etc/passwd",
               "root:x:0:0:root:/root:/bin/bash\nann:x:1000:1000::/home/ann:/bin/sh\n");
    dir_.write("proc/meminfo", "MemTotal:    8388608 kB\nMemFree:     1048576 kB\n"
                               "MemAvailable: 2097152 kB\nSwapTotal: 4096 kB\nSwapFree: 1024 kB\n");
}

void FakeRoot::add(const FakeProcess &process) const {
    const std::string folder = fmt::format("proc/{}/", process.pid);
    FakeMapping sum;
    std::string smaps, maps;
    for (const FakeMapping &mapping : process.mappings) {
        sum.rss += mapping.rss;
        sum.pss += mapping.pss;
        sum.anonymous += mapping.anonymous;
        sum.private_dirty += mapping.private_dirty;
        sum.ksm += mapping.ksm;
        maps += mapping.line + "\n";
        smaps += mapping.line + "\n" + figures(mapping, 0) + "VmFlags: " + mapping.flags + " \n";
    }
    dir_.write(folder + "smaps", smaps);
    dir_.write(folder + "maps", maps);
    dir_.write(folder + "smaps_rollup", "1000-7fff00000000 ---p 00000000 00:00 0       [rollup]\n" +
                                            figures(sum, process.mappings.size()));
    dir_.write(folder + "cgroup", process.cgroup);
    dir_.write(folder + "status",
               fmt::format("Name:\t{}\nState:\tS (sleeping)\nPid:\t{}\nPPid:\t1\n"
                           "Uid:\t{}\t{}\t{}\t{}\nVmRSS:\t{:8} kB\nRssShmem:\t{:8} kB\n",
                           process.name, process.pid, process.uid, process.uid, process.uid,
                           process.uid, sum.rss, process.rss_shmem));
}

void populate(const FakeRoot &root) {
    for (int i = 0; i < 3; ++i) {
        FakeProcess process;
        process.pid = 100 + i;
        process.uid = 1000;
        process.cgroup = container(static_cast<char>('a' + i));
        process.mappings = {
            {"55d000000000-55d000100000 r-xp 00000000 08:01 77    /usr/bin/python3.11", 1000, 400,
             0, 0, "rd ex mr mw me"},
            {"55d000200000-55d000300000 rw-p 00100000 08:01 77    /usr/bin/python3.11", 64, 64, 64,
             64},
            {"55d001000000-55d002000000 rw-p 00000000 00:00 0     [heap]", 8192, 8192, 8192, 8192},
            {"7f0000000000-7f0010000000 rw-p 00000000 00:00 0 ", 262144, 90000, 1024, 1024,
             "rd wr mr mw me ac mm"},
            {"7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0     [stack]", 132, 132, 132, 132}};
        root.add(process);
    }
    FakeProcess shell;
    shell.pid = 7;
    shell.name = "ba\\nsh \\\\ \xff,\"x\"";
    shell.cgroup = "4:memory:/user.slice/a b\n0::/\n";
    shell.mappings = {{"1000-2000 r-xp 00000000 08:01 5     /bin/sh", 600, 300, 0, 0},
                      {"7f0000000000-7f0000021000 rw-p 00000000 00:00 0 ", 4096, 4096, 4096, 4096}};
    root.add(shell);
    root.write("proc/2/status",
               "Name:\tkthreadd\nState:\tS (sleeping)\nUid:\t0\t0\t0\t0\nKthread:\t1\n");
    root.write("proc/3/status", "Name:\tdead\nState:\tZ (zombie)\nUid:\t0\t0\t0\t0\nKthread:\t0\n");
}

Snapshot fixed_snapshot(bool mappings) {
    const FakeRoot root;
    populate(root);
    root.write("sys/kernel/upm/pages_sharing", "1234\n");
    Snapshot snapshot = root.collect({.filter = {}, .mappings = mappings, .exact = false});
    snapshot.time = "2026-01-02T03:04:05Z";
    snapshot.unix_time = 1767323045;
    snapshot.host = "host";
    snapshot.kernel = "6.12";
    snapshot.seconds = 0.25;
    snapshot.page_size = 4096;
    snapshot.skipped.vanished = 1;
    snapshot.skipped.unreadable.push_back({9, "se\ncret", "Permission denied", 4096});
    return snapshot;
}

} // namespace upm::tool::pss::test
