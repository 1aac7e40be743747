// SPDX-License-Identifier: MIT
#include "tools/pss-report/read/collect.hpp"

#include "tests/tools/pss-report/root.hpp"
#include "tools/common/errors.hpp"
#include "tools/pss-report/model/report.hpp"

#include <cerrno>
#include <csignal>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

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
