// SPDX-License-Identifier: MIT
//
// Text of /proc, as it is and as others could make it.
#include "tools/pss-report/read/parse.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

namespace upm::tool::pss {

namespace {

constexpr const char *kSmaps =
    "5600-5700 r-xp 00001000 fe:01 1234                 /usr/bin/a b\\012c\n"
    "Size:                  4 kB\nRss:                  12 kB\nPss:                   3 kB\n"
    "Anonymous:             4 kB\nSwap:                  8 kB\nTHPeligible:    0\n"
    "VmFlags: rd ex mr mw me mm mg \n"
    "7000-8000 rw-p 00000000 00:00 0 \n"
    "Rss:                   5 kB\nNew_Field:             9 kB\nKSM:  4 kB\nVmFlags: rd wr dd wf\n";

TEST(Smaps, IsRead) {
    const std::vector<MeasuredMapping> mappings = parse_smaps(kSmaps);
    ASSERT_EQ(mappings.size(), 2U);
    EXPECT_EQ(mappings[0].name, "/usr/bin/a b\\012c");
    EXPECT_EQ(mappings[0].inode, 1234U);
    EXPECT_EQ(mappings[0].device, 0xfe00000001U);
    EXPECT_TRUE(mappings[0].executable());
    EXPECT_EQ(mappings[0].figures.rss, 12U << 10U);
    EXPECT_EQ(mappings[0].figures.pss, 3U << 10U);
    EXPECT_EQ(mappings[0].figures.swap, 8U << 10U);
    EXPECT_TRUE(mappings[0].flags.mixed);
    EXPECT_TRUE(mappings[0].flags.mergeable);
    EXPECT_FALSE(mappings[0].flags.io);
    EXPECT_EQ(mappings[1].name, "");
    EXPECT_EQ(mappings[1].figures.rss, 5U << 10U);
    EXPECT_EQ(mappings[1].figures.ksm, 4U << 10U);
    EXPECT_TRUE(mappings[1].flags.dont_dump);
    EXPECT_TRUE(mappings[1].flags.wipe);
}

TEST(Smaps, CutOffAnywhereGivesWhatWasThere) {
    const std::string_view text = kSmaps;
    for (std::size_t length = 0; length <= text.size(); ++length)
        EXPECT_LE(parse_smaps(text.substr(0, length)).size(), 2U);
}

TEST(Smaps, FiguresOfAnUnknownLineGoNowhere) {
    const std::vector<MeasuredMapping> mappings =
        parse_smaps("1000-2000 rw-p 0 00:00 0\nRss: 4 kB\n3000 nonsense\nRss: 8 kB\n");
    ASSERT_EQ(mappings.size(), 1U);
    EXPECT_EQ(mappings[0].figures.rss, 4096U);
}

TEST(Rollup, IsRead) {
    const Figures figures = parse_rollup("1000-2000 ---p 00000000 00:00 0       [rollup]\n"
                                         "Rss:  100 kB\nPss:  50 kB\nPss_Anon: 7 kB\n"
                                         "Private_Clean: 3 kB\nPrivate_Dirty: 4 kB\n");
    EXPECT_EQ(figures.rss, 100U << 10U);
    EXPECT_EQ(figures.pss, 50U << 10U);
    EXPECT_EQ(figures.private_clean + figures.private_dirty, 7U << 10U);
}

TEST(Rollup, NumbersThatAreNoneAreZero) {
    EXPECT_EQ(parse_rollup("Rss: kB\n").rss, 0U);
    EXPECT_EQ(parse_rollup("Rss: -4 kB\n").rss, 0U);
    EXPECT_EQ(parse_rollup("Rss: 99999999999999999999999999 kB\n").rss, 0U);
    EXPECT_EQ(parse_rollup("Rss:").rss, 0U);
}

TEST(StatusFile, IsRead) {
    const Status status = parse_status("Name:\ta\\nb \\\\\nState:\tS (sleeping)\nPPid:\t3\n"
                                       "Uid:\t1\t2\t3\t4\nVmRSS:\t    8 kB\nRssShmem:\t 4 kB\n");
    EXPECT_EQ(status.name, "a\nb \\");
    EXPECT_EQ(status.state, 'S');
    EXPECT_EQ(status.ppid, 3);
    EXPECT_EQ(status.uid, 2U);
    EXPECT_TRUE(status.has_memory);
    EXPECT_EQ(status.rss, 8192U);
    EXPECT_EQ(status.rss_shmem, 4096U);
    EXPECT_FALSE(status.kernel_thread);
}

TEST(StatusFile, KernelThread) {
    const Status status = parse_status("Name:\tkworker/0:1\nKthread:\t1\n");
    EXPECT_TRUE(status.kernel_thread);
    EXPECT_FALSE(status.has_memory);
    EXPECT_EQ(status.name, "kworker/0:1");
}

TEST(KsmStatFile, IsRead) {
    const KsmStat stat = parse_ksm_stat("ksm_rmap_items 5\nksm_zero_pages 3\n"
                                        "ksm_merging_pages 7\nksm_merge_any: no\nx\n");
    EXPECT_EQ(stat.merging_pages, 7U);
    EXPECT_EQ(stat.zero_pages, 3U);
}

TEST(Passwd, FirstNameOfAnIdCounts) {
    const auto users = parse_passwd("a:x:1:1\nb:x:1:1\n:x:2:2\nc:x:y\nz\ne:x:4294967294:0");
    EXPECT_EQ(users.size(), 2U);
    EXPECT_EQ(users.at(1), "a");
    EXPECT_EQ(users.at(4294967294U), "e");
}

} // namespace

} // namespace upm::tool::pss
