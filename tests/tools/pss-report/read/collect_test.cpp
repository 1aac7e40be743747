// SPDX-License-Identifier: MIT
#include "tools/pss-report/read/collect.hpp"

#include "tests/tools/pss-report/root.hpp"
#include "tools/common/errors.hpp"
#include "tools/pss-report/model/report.hpp"

#include <cerrno>
#include <chrono>
#include <csignal>
#include <fcntl.h>
#include <filesystem>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <string>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace upm::tool::pss {

namespace {

using test::FakeProcess;
using test::FakeRoot;

TEST(Collect, SkipsWhatHasNoMemoryAndSaysSo) {
    const FakeRoot root;
    test::populate(root);
    root.mkdir("proc/55"); // vanished before its status was read
    root.mkdir("proc/net");
    const Snapshot snapshot = root.collect();
    EXPECT_EQ(snapshot.processes.size(), 4U);
    EXPECT_EQ(snapshot.skipped.kernel_threads, 1U);
    EXPECT_EQ(snapshot.skipped.zombies, 1U);
    EXPECT_EQ(snapshot.skipped.vanished, 1U);
    EXPECT_EQ(snapshot.source, "smaps_rollup");
    EXPECT_EQ(snapshot.system.mem_total, std::uint64_t{8} << 30U);
}

TEST(Collect, VanishedBetweenTwoFiles) {
    const FakeRoot root;
    root.write("proc/8/status", "Name:\tx\nState:\tS\nUid:\t0\t0\t0\t0\nVmRSS:\t4 kB\n");
    const Snapshot snapshot = root.collect();
    EXPECT_EQ(snapshot.skipped.vanished, 1U);
    EXPECT_TRUE(snapshot.processes.empty());
}

TEST(Collect, UnreadableIsNamedAndCounted) {
    const FakeRoot root;
    root.write("proc/8/status", "Name:\tx y\nState:\tS\nUid:\t0\t0\t0\t0\nVmRSS:\t4 kB\n");
    root.mkdir("proc/8/smaps_rollup"); // opens, and cannot be read
    const Snapshot snapshot = root.collect();
    ASSERT_EQ(snapshot.skipped.unreadable.size(), 1U);
    EXPECT_EQ(snapshot.skipped.unreadable[0].pid, 8);
    EXPECT_EQ(snapshot.skipped.unreadable[0].command, "x y");
    EXPECT_EQ(snapshot.skipped.unreadable[0].reason, "Is a directory");
    EXPECT_EQ(snapshot.skipped.unreadable[0].rss, 4096U);
}

TEST(Collect, PartsOfRssAddUp) {
    const FakeRoot root;
    test::populate(root);
    for (const bool mappings : {false, true}) {
        const Snapshot snapshot =
            root.collect({.filter = {}, .mappings = mappings, .exact = false});
        const Report report = make_report(snapshot, GroupBy::kContainer);
        Usage sum;
        for (const Row &row : report.rows)
            sum += row.usage;
        EXPECT_EQ(sum, report.total.usage);
        const Usage &total = report.total.usage;
        EXPECT_EQ(total.rss, total.anon + total.file + total.shmem + total.upm);
        EXPECT_EQ(report.rows.size(), 4U);
    }
}

TEST(Collect, KindsAddUpToTheProcess) {
    const FakeRoot root;
    test::populate(root);
    const Snapshot snapshot = root.collect({.filter = {}, .mappings = true, .exact = false});
    EXPECT_EQ(snapshot.source, "smaps");
    for (const Process &process : snapshot.processes) {
        Usage sum;
        for (const KindUsage &kind : *process.kinds)
            sum += kind.usage;
        EXPECT_EQ(sum, process.usage) << process.pid;
    }
}

// The module marks the mapping; in an anonymous one all that is not anonymous is its.
TEST(Collect, PagesOfTheModule) {
    const FakeRoot root;
    test::populate(root);
    root.write("sys/kernel/upm/pages_sharing", "12\n");
    root.write("sys/kernel/upm/domain_policy", "uid\n"); // no number
    CollectOptions options;
    options.filter.pids = {100};
    const Snapshot snapshot = root.collect(options);
    ASSERT_EQ(snapshot.processes.size(), 1U);
    const Usage &usage = snapshot.processes[0].usage;
    EXPECT_EQ(usage.upm, (262144U - 1024U) << 10U);
    EXPECT_EQ(usage.upm_saved, usage.upm - ((90000U - 1024U) << 10U));
    EXPECT_EQ(usage.saved, usage.upm_saved);
    EXPECT_FALSE(snapshot.exact); // there is no kpageflags here
    EXPECT_EQ(snapshot.system.upm, (std::map<std::string, std::int64_t>{{"pages_sharing", 12}}));
}

TEST(Collect, PagesOfTheStore) {
    const FakeRoot root;
    FakeProcess process;
    process.pid = 5;
    process.rss_shmem = 4096 + 100;
    process.mappings = {
        {"7f0000000000-7f0000400000 rw-p 00000000 00:01 99   /memfd:upm-seg (deleted)", 4096 + 64,
         1024 + 64, 64, 64},
        {"7f0000800000-7f0000900000 rw-s 00000000 00:01 98   /dev/zero (deleted)", 100, 100, 0, 0}};
    root.add(process);
    const Snapshot snapshot = root.collect();
    ASSERT_EQ(snapshot.processes.size(), 1U);
    const Usage &usage = snapshot.processes[0].usage;
    EXPECT_EQ(snapshot.source, "smaps"); // by itself: the process maps a segment
    EXPECT_EQ(usage.upm, 4096U << 10U);
    EXPECT_EQ(usage.upm_saved, 3072U << 10U);
    EXPECT_EQ(usage.shmem, 100U << 10U);
    EXPECT_EQ(usage.anon, 64U << 10U);
}

TEST(Collect, KsmIsDividedByMergedPages) {
    const FakeRoot root;
    for (const int pid : {10, 11}) {
        FakeProcess process;
        process.pid = pid;
        process.mappings = {
            {"7f0000000000-7f0000400000 rw-p 00000000 00:00 0", 4096, 2048, 4096, 0}};
        root.add(process);
        root.write(fmt::format("proc/{}/ksm_stat", pid),
                   "ksm_merging_pages 100\nksm_zero_pages 5\n");
    }
    root.write("sys/kernel/mm/ksm/pages_shared", "50\n");
    root.write("sys/kernel/mm/ksm/pages_sharing", "150\n");
    const Snapshot snapshot = root.collect();
    const Usage total = make_report(snapshot, GroupBy::kUser).total.usage;
    const std::uint64_t page = snapshot.page_size;
    EXPECT_EQ(total.ksm, 200 * page);
    EXPECT_EQ(total.ksm_zero, 10 * page);
    EXPECT_EQ(total.ksm_saved, 150 * page + 10 * page);
}

TEST(Collect, Filters) {
    const FakeRoot root;
    test::populate(root);
    const auto pids = [&](Filter filter) {
        std::vector<int> found;
        const Snapshot snapshot =
            root.collect({.filter = std::move(filter), .mappings = false, .exact = false});
        for (const Process &process : snapshot.processes)
            found.push_back(process.pid);
        EXPECT_EQ(snapshot.processes.size() + snapshot.skipped.filtered,
                  snapshot.processes.size() == 2 ? 2U : 4U);
        return found;
    };
    using Pids = std::vector<int>;
    EXPECT_EQ(pids({.names = {"py*"}}), (Pids{100, 101, 102}));
    EXPECT_EQ(pids({.names = {"nobody", "ba?sh*"}}), (Pids{7}));
    EXPECT_EQ(pids({.users = {"ann"}}), (Pids{100, 101, 102}));
    EXPECT_EQ(pids({.users = {"0"}}), (Pids{7}));
    EXPECT_EQ(pids({.cgroups = {"user.slice"}}), (Pids{7}));
    EXPECT_EQ(pids({.cgroups = {"/system.slice"}}), (Pids{100, 101, 102}));
    EXPECT_EQ(pids({.cgroups = {"*docker-bb*"}}), (Pids{101}));
    EXPECT_EQ(pids({.names = {"py*"}, .users = {"root"}}), (Pids{}));
    EXPECT_EQ(pids({.pids = {7, 100}}), (Pids{7, 100}));
}

TEST(Collect, FiltersByEveryHierarchy) {
    const FakeRoot root;
    FakeProcess process;
    process.pid = 5;
    process.cgroup = "4:memory:/docker/x\n0::/system.slice/containerd.service\n";
    process.mappings = {{"1000-2000 rw-p 00000000 00:00 0 ", 4, 4, 4, 4}};
    root.add(process);
    for (const char *cgroup : {"/docker/x", "/docker", "system.slice", "/docker/", "/", "//"}) {
        const Snapshot snapshot = root.collect({.filter = {.cgroups = {cgroup}}});
        EXPECT_EQ(snapshot.processes.size(), 1U) << cgroup;
    }
    for (const char *cgroup : {"", "/docker/x/y", "/dock/"})
        EXPECT_EQ(root.collect({.filter = {.cgroups = {cgroup}}}).processes.size(), 0U) << cgroup;
}

// The first thread of a process may end before the others: /proc/PID is a zombie's then.
TEST(Collect, AProcessOutlivesItsFirstThread) {
    const FakeRoot root;
    FakeProcess process;
    process.pid = 7;
    process.name = "server";
    process.mappings = {{"1000-2000 rw-p 00000000 00:00 0 ", 34, 34, 34, 34}};
    root.add(process);
    const std::string dead = "Name:\tserver\nState:\tZ (zombie)\nPid:\t7\nUid:\t0\t0\t0\t0\n";
    const std::string old = root.path() + "/proc/7/";
    root.write("sys/kernel/mm/ksm/pages_shared", "1\n");
    root.write("sys/kernel/mm/ksm/pages_sharing", "1\n");
    root.mkdir("proc/7/task/7");
    root.mkdir("proc/7/task/9");
    root.write("proc/7/cgroup", "4:memory:/lxc/web\n");
    root.write("proc/7/ksm_stat", "ksm_merging_pages 4\n");
    for (const char *name : {"status", "smaps", "smaps_rollup", "maps", "cgroup", "ksm_stat"})
        std::filesystem::rename(old + name, old + "task/9/" + name);
    for (const char *folder : {"proc/7/", "proc/7/task/7/"}) {
        root.write(std::string(folder) + "status", dead);
        root.write(std::string(folder) + "smaps_rollup", "");
        root.write(std::string(folder) + "smaps", "");
        root.write(std::string(folder) + "cgroup", "4:memory:/\n");
        root.write(std::string(folder) + "ksm_stat", "");
    }
    for (const bool mappings : {false, true}) {
        const Snapshot snapshot = root.collect({.mappings = mappings});
        ASSERT_EQ(snapshot.processes.size(), 1U);
        EXPECT_EQ(snapshot.processes[0].usage.pss, 34U << 10U);
        EXPECT_EQ(snapshot.processes[0].command, "server");
        EXPECT_EQ(snapshot.processes[0].container.id, "web");
        EXPECT_EQ(snapshot.processes[0].usage.ksm, 4U << 12U);
        EXPECT_EQ(snapshot.skipped.zombies, 0U);
    }
}

// The same with a real process.
TEST(Collect, AProcessOutlivesItsFirstThreadForReal) {
    int ready[2];
    ASSERT_EQ(::pipe(ready), 0);
    const pid_t pid = ::fork();
    if (pid == 0) {
        (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
        std::thread([end = ready[1]] {
            const std::vector<char> memory(32U << 20U, 'x');
            (void)!::write(end, memory.data(), 1);
            for (;;)
                (void)::pause();
        }).detach();
        ::syscall(SYS_exit, 0); // this thread alone
    }
    (void)::close(ready[1]);
    char byte = 0;
    ASSERT_EQ(::read(ready[0], &byte, 1), 1);
    while (parse_status(upm::test::read_file("/proc/" + std::to_string(pid) + "/status")).state !=
           'Z')
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    Collector collector(Root(), {.filter = {.pids = {pid}}});
    const Snapshot snapshot = collector.collect();
    (void)::kill(pid, SIGKILL);
    (void)::waitpid(pid, nullptr, 0);
    (void)::close(ready[0]);
    ASSERT_EQ(snapshot.processes.size(), 1U);
    EXPECT_GE(snapshot.processes[0].usage.pss, 32U << 20U);
}

// And its other threads come and go: one that was found may have ended when it is read.
TEST(Collect, AProcessOutlivesTheThreadItIsReadBy) {
    const FakeRoot root;
    FakeProcess process;
    process.pid = 7;
    process.mappings = {{"1000-2000 rw-p 00000000 00:00 0 ", 34, 34, 34, 34}};
    root.add(process);
    const std::string folder = root.path() + "/proc/7/";
    root.mkdir("proc/7/task/8");
    root.mkdir("proc/7/task/9");
    for (const char *name : {"status", "smaps", "smaps_rollup", "cgroup"})
        std::filesystem::rename(folder + name, folder + "task/9/" + name);
    for (const char *name : {"status", "cgroup"}) // and nothing of its memory
        std::filesystem::copy(folder + "task/9/" + name, folder + "task/8/" + name);
    root.mkdir("proc/7/task/10"); // ended before its status was read
    root.write("proc/7/status", "Name:\tserver\nState:\tZ (zombie)\nPid:\t7\n");
    for (const bool mappings : {false, true}) {
        const Snapshot snapshot = root.collect({.mappings = mappings});
        ASSERT_EQ(snapshot.processes.size(), 1U);
        EXPECT_EQ(snapshot.processes[0].thread, 9);
        EXPECT_EQ(snapshot.processes[0].usage.pss, 34U << 10U);
        EXPECT_EQ(snapshot.skipped.vanished, 0U);
    }
}

// A file that never answers, as those of a process that is stuck in the kernel.
TEST(Collect, AStuckProcessDoesNotStopTheOthers) {
    const FakeRoot root;
    test::populate(root);
    const std::string stuck = root.path() + "/proc/101/smaps_rollup";
    std::filesystem::remove(stuck);
    ASSERT_EQ(::mkfifo(stuck.c_str(), 0600), 0);
    Collector collector(Root(root.path()), {});
    for (int look = 0; look < 2; ++look) {
        const auto started = std::chrono::steady_clock::now();
        const Snapshot snapshot = collector.collect();
        const auto took = std::chrono::steady_clock::now() - started;
        EXPECT_EQ(snapshot.processes.size(), 3U);
        ASSERT_EQ(snapshot.skipped.unreadable.size(), 1U);
        const Unreadable &row = snapshot.skipped.unreadable[0];
        EXPECT_EQ(row.pid, 101);
        EXPECT_EQ(row.command, "python3");
        EXPECT_NE(row.reason.find("stuck in the kernel"), std::string::npos);
        EXPECT_GT(row.rss, 0U);
        // The second time it is known: no other thread joins the first.
        EXPECT_LT(took, (look == 0 ? 3 : 1) * BoundedReader::kPatience);
    }
    // It comes back.
    const int fifo = ::open(stuck.c_str(), O_WRONLY | O_NONBLOCK);
    ASSERT_GE(fifo, 0);
    (void)::close(fifo);
    std::filesystem::remove(stuck);
    root.write("proc/101/smaps_rollup", "Rss: 4 kB\nPss: 4 kB\n");
    std::size_t read = 0;
    for (int tries = 0; tries < 100 && read != 4; ++tries) {
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
        read = collector.collect().processes.size();
    }
    EXPECT_EQ(read, 4U);
}

TEST(Collect, AMissingPidIsAnError) {
    const FakeRoot root;
    CollectOptions options;
    options.filter.pids = {4711};
    try {
        (void)root.collect(options);
        FAIL() << "did not throw";
    } catch (const Failure &failure) {
        EXPECT_NE(std::string(failure.what()).find("--pid 4711"), std::string::npos);
        EXPECT_NE(std::string(failure.what()).find("No such process"), std::string::npos);
    }
}

TEST(Collect, NoProcIsAnError) {
    const upm::test::TempDir dir;
    Collector collector{Root(dir.path()), {}};
    EXPECT_THROW((void)collector.collect(), Failure);
}

TEST(Collect, FiveThousandProcesses) {
    const FakeRoot root;
    for (int i = 1; i <= 5000; ++i) {
        FakeProcess process;
        process.pid = i;
        process.mappings = {{"1000-2000 rw-p 00000000 00:00 0 ", 8, 4, 8, 8}};
        root.add(process);
    }
    const Snapshot snapshot = root.collect();
    ASSERT_EQ(snapshot.processes.size(), 5000U);
    const Report report = make_report(snapshot, GroupBy::kCommand);
    ASSERT_EQ(report.rows.size(), 1U);
    EXPECT_EQ(report.total.usage.rss, 5000U * 8 * 1024);
}

TEST(Collect, HugeSmaps) {
    const FakeRoot root;
    std::string text;
    constexpr std::uint64_t kMappings = 70000; // above vm.max_map_count's default
    for (std::uint64_t i = 1; i <= kMappings; ++i)
        text += fmt::format("{:x}-{:x} rw-p 00000000 00:00 0 \nRss: 4 kB\nAnonymous: 4 kB\n",
                            i * 0x2000, i * 0x2000 + 0x1000);
    FakeProcess process;
    process.pid = 9;
    process.mappings = {{"1000-2000 rw-p 00000000 00:00 0 ", 4}};
    root.add(process);
    root.write("proc/9/smaps", text);
    const Snapshot snapshot = root.collect({.filter = {}, .mappings = true, .exact = false});
    ASSERT_EQ(snapshot.processes.size(), 1U);
    EXPECT_EQ(snapshot.processes[0].usage.rss, kMappings * 4096);
}

// Processes that come and go while they are read, for real.
TEST(Collect, SurvivesProcessesThatVanish) {
    const pid_t churn = ::fork();
    if (churn == 0) {
        (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (;;) {
            const pid_t child = ::fork();
            if (child == 0)
                ::_exit(0);
            (void)::waitpid(child, nullptr, 0);
        }
    }
    for (int i = 0; i < 50; ++i) {
        Collector collector(Root(), {});
        const Snapshot snapshot = collector.collect();
        EXPECT_FALSE(snapshot.processes.empty());
    }
    (void)::kill(churn, SIGKILL);
    (void)::waitpid(churn, nullptr, 0);
}

} // namespace

} // namespace upm::tool::pss
