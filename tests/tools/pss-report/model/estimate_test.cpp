// SPDX-License-Identifier: MIT
#include "tools/pss-report/model/estimate.hpp"

#include "tests/support/support.hpp"
#include "tools/pss-report/read/collect.hpp"
#include "tools/pss-report/read/scan.hpp"

#include <cmath>
#include <csignal>
#include <cstring>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace upm::tool::pss {

namespace {

constexpr std::uint64_t kPage = 4096;

PageRecord record(std::uint64_t hash, std::uint64_t frame, std::uint32_t group,
                  bool exclusive = true, bool ksm = false) {
    return {.hash = hash,
            .frame = frame,
            .group = group,
            .process = group,
            .content = static_cast<std::uint32_t>(hash),
            .kind = Kind::kWeights,
            .anon = true,
            .exclusive = exclusive,
            .ksm = ksm};
}

Estimate counted(std::vector<PageRecord> records, std::size_t groups, std::uint64_t scale = 1) {
    Estimate result;
    result.groups.resize(groups);
    count(result, records, scale, kPage, 3);
    return result;
}

TEST(Count, TwinsSaveAllButOneFrame) {
    const Estimate result =
        counted({record(3, 1, 0), record(3, 2, 1), record(3, 4, 1), record(5, 7, 0)}, 2);
    EXPECT_DOUBLE_EQ(result.total.saving, 2.0 * kPage);
    EXPECT_EQ(result.total.anon, 3 * kPage);
    EXPECT_EQ(result.total.unique, kPage);
    EXPECT_EQ(result.total.scanned, 4 * kPage);
    EXPECT_EQ(result.now, 0U);
    EXPECT_EQ(result.error, 0);
}

TEST(Count, AFrameThatIsSharedSavesAlready) {
    const Estimate result = counted({record(3, 1, 0, false), record(3, 1, 1, false)}, 2);
    EXPECT_DOUBLE_EQ(result.total.saving, 0);
    EXPECT_EQ(result.total.shared, 2 * kPage);
    EXPECT_EQ(result.now, kPage);
}

// Two processes have two pages each that are equal but for addresses: the two of one process
// point elsewhere, so two contents stay. A third process has one of them.
TEST(Count, WhatDiffersWithinAProcessStaysDifferent) {
    std::vector<PageRecord> records;
    std::uint64_t frame = 0;
    for (const std::uint32_t process : {0U, 0U, 1U, 1U, 2U}) {
        records.push_back(record(3, ++frame, process));
        records.back().content = static_cast<std::uint32_t>(frame);
    }
    EXPECT_DOUBLE_EQ(counted(records, 3).total.saving, 3.0 * kPage);
    records[1].content = records[0].content; // these two are equal as they are
    records[3].content = records[2].content;
    EXPECT_DOUBLE_EQ(counted(records, 3).total.saving, 4.0 * kPage);
}

// Two processes of one program have three pages with addresses each, of which two are alike,
// and one of another use; what another program has is equal to nothing of theirs.
TEST(Count, PagesWithAddressesMayAllBecomeEqual) {
    std::vector<PageRecord> records = {record(1, 1, 0), record(1, 2, 1)}; // without
    for (const std::uint32_t process : {0U, 1U, 2U})
        for (std::uint64_t page = 0; page < 4; ++page) {
            const std::uint64_t own = 100 * (process + 1) + page;
            records.push_back(record(page == 0 && process < 2 ? 3 : own, own, process));
            records.back().addresses = true;
            records.back().program = process < 2 ? 0 : 1;
            if (page == 3)
                records.back().kind = process == 0 ? Kind::kHeap : Kind::kStack;
        }
    const Estimate result = counted(records, 3);
    EXPECT_DOUBLE_EQ(result.total.saving, 2.0 * kPage);
    EXPECT_DOUBLE_EQ(result.at_most, 4.0 * kPage);
    const auto twice = [&](std::size_t first) { // two pages of one process are equal as they are
        records[first + 2].hash = records[first + 1].hash;
        records[first + 2].content = records[first + 1].content;
    };
    twice(2);
    EXPECT_DOUBLE_EQ(counted(records, 3).at_most, 4.0 * kPage);
    twice(6);
    EXPECT_DOUBLE_EQ(counted(records, 3).at_most, 5.0 * kPage);
}

// Of 7 equal pages, with 3 to a KSM page, three pages stay.
TEST(Count, KsmKeepsAPageForSoManyMappings) {
    std::vector<PageRecord> records;
    for (std::uint64_t i = 0; i < 7; ++i)
        records.push_back(record(3, i + 1, 0, true, true));
    EXPECT_DOUBLE_EQ(counted(records, 1).ksm, 4.0 * kPage);
}

// 10 common and 5 own pages in each group: 15 n pages as they are, 10 + 5 n merged.
TEST(Count, ExtrapolatesToMoreGroups) {
    std::vector<PageRecord> records;
    std::uint64_t frame = 0;
    for (std::uint32_t group = 0; group < 4; ++group)
        for (std::uint64_t page = 0; page < 15; ++page) {
            ++frame;
            records.push_back(record(page < 10 ? page : 1000 + frame, 5000 + frame, group));
        }
    const Estimate result = counted(records, 4);
    ASSERT_EQ(result.extrapolation.size(), 63U);
    for (const Extrapolation &point : result.extrapolation) {
        EXPECT_NEAR(point.without, 15.0 * point.n * kPage, 1);
        EXPECT_NEAR(point.with, (10.0 + 5.0 * point.n) * kPage, 1);
    }
}

// Contents in pairs, one in eight kept: the truth is within twice the stated bound.
TEST(Count, SampleStatesItsError) {
    std::vector<PageRecord> records;
    std::uint64_t hash = 88172645463325252U, kept = 0;
    for (std::uint64_t i = 0; i < 80000; ++i) {
        hash ^= hash << 13U, hash ^= hash >> 7U, hash ^= hash << 17U;
        if ((hash & 7U) != 0)
            continue;
        ++kept;
        records.push_back(record(hash, 2 * i + 1, 0));
        records.push_back(record(hash, 2 * i + 2, 1));
    }
    const Estimate result = counted(records, 2, 8);
    EXPECT_DOUBLE_EQ(result.total.saving, static_cast<double>(kept * 8 * kPage));
    EXPECT_GT(result.error, 0);
    EXPECT_LT(result.error, result.total.saving / 10);
    EXPECT_NEAR(result.total.saving, 80000.0 * kPage, 2 * result.error);
}

// A process with pages of its parent's content, in frames of its own.
class Twin {
  public:
    Twin() : memory_(kPages) {
        pid_ = ::fork();
        if (pid_ == 0) {
            (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
            for (std::size_t i = 0; i < kPages; ++i)
                fill(i);
            (void)::prctl(PR_SET_NAME, "twin");
            for (;;)
                (void)::pause();
        }
        while (upm::test::read_file("/proc/" + std::to_string(pid_) + "/comm") != "twin\n")
            (void)::usleep(1000);
    }
    Twin(const Twin &) = delete;
    Twin &operator=(const Twin &) = delete;
    ~Twin() {
        (void)::kill(pid_, SIGKILL);
        (void)::waitpid(pid_, nullptr, 0);
    }
    static constexpr std::size_t kPages = 4096; // 16 MiB: "weights"
    [[nodiscard]] int pid() const { return pid_; }

  private:
    // A quarter zeros, the others all different, the same in each process.
    void fill(std::size_t page) {
        std::memset(memory_.page(page), 0, kPage);
        if (page % 4 != 0)
            std::memcpy(memory_.page(page) + 100, &page, sizeof(page));
        else
            memory_.page(page)[0] = 0;
    }
    upm::test::Pages memory_;
    int pid_ = -1;
};

Estimate estimate_of(const std::vector<const Twin *> &twins, EstimateOptions options) {
    CollectOptions collect;
    for (const Twin *const twin : twins)
        collect.filter.pids.insert(twin->pid());
    Collector collector(Root(), collect);
    const Snapshot snapshot = collector.collect();
    EXPECT_EQ(snapshot.processes.size(), twins.size());
    return estimate(collector.proc(), snapshot, options);
}

TEST(Estimate, OfRealProcesses) {
    const Twin a, b;
    const Estimate result = estimate_of({&a, &b}, {});
    if (result.unreadable != 0 && result.total.scanned == 0)
        GTEST_SKIP() << "may not read other processes here";
    Classes weights;
    for (const EstimateGroup &group : result.groups)
        weights += group.kinds[static_cast<std::size_t>(Kind::kWeights)];
    constexpr std::uint64_t kZeros = 2 * Twin::kPages / 4;
    EXPECT_EQ(weights.zero, kZeros * kPage);
    EXPECT_EQ(weights.anon, (2 * Twin::kPages - kZeros) * kPage);
    EXPECT_NEAR(weights.saving, static_cast<double>((Twin::kPages - kZeros / 2 + kZeros) * kPage),
                kPage);
    EXPECT_EQ(weights.scanned, 2 * Twin::kPages * kPage);
}

TEST(Estimate, SampleFitsIntoItsMemory) {
    const Twin a, b;
    EstimateOptions options;
    options.max_memory = 1U << 15U; // at least 1024 records
    const Estimate result = estimate_of({&a, &b}, options);
    if (result.unreadable != 0 && result.total.scanned == 0)
        GTEST_SKIP() << "may not read other processes here";
    EXPECT_LT(result.sampled, 1);
    EXPECT_GT(result.error, 0);
    EXPECT_NEAR(result.total.saving, static_cast<double>(Twin::kPages * kPage) * 1.25,
                3 * result.error + 64 * kPage);
}

} // namespace

} // namespace upm::tool::pss
