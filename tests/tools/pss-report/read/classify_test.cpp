// SPDX-License-Identifier: MIT
#include "tools/pss-report/read/parse.hpp"

#include <gtest/gtest.h>

namespace upm::tool::pss {

namespace {

std::vector<Kind> kinds_of(const char *text) {
    return classify(parse_smaps(text));
}

TEST(Classify, ByName) {
    EXPECT_EQ(
        kinds_of("1000-2000 r-xp 0 08:01 5 /bin/a\n"
                 "2000-3000 rw-p 0 08:01 5 /bin/a\nAnonymous: 4 kB\n"
                 "3000-4000 r--p 0 08:01 5 /bin/a\n"
                 "4000-5000 rw-p 0 00:00 0 [heap]\n"
                 "5000-6000 rw-s 0 00:01 9 /memfd:x (deleted)\n"
                 "6000-7000 rw-p 0 00:01 9 /memfd:upm-1 (deleted)\n"
                 "7000-8000 rw-s 0 00:01 9 /memfd:upm-1 (deleted)\n"
                 "8000-9000 rw-s 0 00:01 9 /dev/zero (deleted)\n"
                 "9000-a000 rw-s 0 00:05 9 /dev/nvidia0\n"
                 "a000-b000 rw-p 0 00:0e 9 /anon_hugepage (deleted)\n"
                 "b000-c000 r-xp 0 00:00 0 [vdso]\n"
                 "c000-d000 rw-p 0 00:00 0 [stack]\n"
                 "d000-e000 rw-p 0 00:00 0 [anon:.bss]\n"),
        (std::vector<Kind>{Kind::kText, Kind::kFilePrivate, Kind::kFile, Kind::kHeap, Kind::kShmem,
                           Kind::kStore, Kind::kShmem, Kind::kShmem, Kind::kSpecial, Kind::kHugetlb,
                           Kind::kSpecial, Kind::kStack, Kind::kAnon}));
}

TEST(Classify, ByShape) {
    EXPECT_EQ(kinds_of("7f0000000000-7f0000021000 rw-p 0 00:00 0\n" // an arena and its reserve
                       "7f0000021000-7f0004000000 ---p 0 00:00 0\n"
                       "7f0008000000-7f0010000000 rw-p 0 00:00 0\n" // 128 MiB
                       "7f0010000000-7f0010001000 ---p 0 00:00 0\n" // a guard page
                       "7f0010001000-7f0010801000 rw-p 0 00:00 0\n" // and its stack
                       "7f0020000000-7f0020010000 rw-p 0 00:00 0\n"),
              (std::vector<Kind>{Kind::kArena, Kind::kAnon, Kind::kWeights, Kind::kAnon,
                                 Kind::kStack, Kind::kAnon}));
}

} // namespace

} // namespace upm::tool::pss
