// SPDX-License-Identifier: MIT
//
// Two processes that did the same in layouts of their own have equal pages after it.
#include "tools/pss-report/read/rebase.hpp"

#include <array>
#include <cstring>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <set>
#include <string>

namespace upm::tool::pss {

namespace {

using Words = std::array<std::uint64_t, 8>;

// A process whose program, heap, libraries, memory below them, arena and stack are there.
struct Places {
    std::uint64_t program, heap, library, arena, stack;
};
constexpr Places kOne = {0x555555554000, 0x555556000000, 0x7f1234000000, 0x7f1000000000,
                         0x7ffd00020000};
constexpr Places kOther = {0x560000000000, 0x560001230000, 0x7f77abc00000, 0x7f7004000000,
                           0x7fff12345000};

std::string line(std::uint64_t start, std::uint64_t size, const char *permissions, unsigned inode,
                 const char *name) {
    return fmt::format("{:x}-{:x} {} 00000000 08:01 {} {}\n", start, start + size, permissions,
                       inode, name);
}

std::string maps(const Places &at) {
    return line(at.program, 0x4000, "r-xp", 7, "/bin/x") +
           line(at.program + 0x4000, 0x1000, "rw-p", 7, "/bin/x") +
           line(at.program + 0x5000, 0x3000, "rw-p", 0, "") +
           line(at.heap, 0x21000, "rw-p", 0, "[heap]") + line(at.arena, 0x21000, "rw-p", 0, "") +
           line(at.arena + 0x21000, (64 << 20) - 0x21000, "---p", 0, "") +
           line(at.library - 0x40000, 0x1000, "---p", 0, "") +
           line(at.library - 0x3f000, 0x8000, "rw-p", 0, "") +
           line(at.library - 0x10000, 0x2000, "rw-p", 0, "") +
           line(at.library, 0x10000, "r-xp", 9, "/lib/l.so") +
           line(at.library + 0x10000, 0x1000, "rw-p", 9, "/lib/l.so") +
           line(at.stack - 0x21000, 0x21000, "rw-p", 0, "[stack]");
}

// What a page of it may hold: addresses, and what only looks like some.
Words page(const Places &at) {
    return {at.program + 0x4010,       at.program + 0x6000,      at.heap + 0x10,
            at.arena + 0x30,           at.library - 0x3f000 + 8, at.library - 0x10000 + 0x20,
            at.library + 0x10000 + 16, at.stack - 0x100};
}

Words rebased(const std::string &text, Words words, std::uint64_t address = 0x7000) {
    const Rebaser rebaser(parse_smaps(text));
    rebaser.rebase(reinterpret_cast<char *>(words.data()), sizeof(words), address);
    return words;
}

TEST(Rebase, AddressesOfTheSameThingsAreTheSame) {
    const Words one = rebased(maps(kOne), page(kOne));
    EXPECT_EQ(one, rebased(maps(kOther), page(kOther)));
    for (std::size_t i = 0; i < one.size(); ++i) {
        EXPECT_NE(one.at(i), page(kOne).at(i)) << i;
        for (std::size_t j = 0; j < i; ++j)
            EXPECT_NE(one.at(i), one.at(j));
    }
}

TEST(Rebase, OtherPlacesStayDifferent) {
    for (std::size_t i = 0; i < 8; ++i) {
        Words other = page(kOther);
        other.at(i) += 8;
        EXPECT_NE(rebased(maps(kOne), page(kOne)), rebased(maps(kOther), other)) << i;
    }
}

// Where the kernel found room is not told from outside.
TEST(Rebase, OfOtherMemoryThePlaceInThePageIsKept) {
    const std::uint64_t block = kOne.library - 0x3f000;
    const Words found = rebased(maps(kOne), {block + 8, block + 0x1008, block + 16});
    EXPECT_EQ(found[0], found[1]);
    EXPECT_EQ(found[2] - found[0], 8U);
}

// glibc's links of free memory, and what is left of an address.
TEST(Rebase, WhatIsMadeOfAnAddress) {
    const auto made = [](const Places &at) {
        const std::uint64_t page = at.heap + 0x3000;
        const Words words = {page >> 12U, (page >> 12U) ^ (at.heap + 0x5010),
                             (at.library & 0xffffffff00000000) | 7,
                             (at.heap & 0xffffffff00000000) | 0x80000009};
        return rebased(maps(at), words, page);
    };
    EXPECT_EQ(made(kOne), made(kOther));
    const Words found = made(kOne);
    EXPECT_EQ(std::set<std::uint64_t>(found.begin(), found.end()).size(), 5U) << "and zeros";
}

TEST(Rebase, WhatIsNoAddressStays) {
    const Words words = {0,
                         1,
                         0xffffffffffffffff,
                         kOne.program ^ (1ULL << 40U),
                         kOne.library + (1ULL << 32U),
                         0x3f8000003f800000,
                         kOne.heap >> 32U,
                         0xff00000000};
    EXPECT_EQ(rebased(maps(kOne), words), words);
    EXPECT_EQ(rebased("", page(kOne)), page(kOne));
    Words none = page(kOne);
    Rebaser().rebase(reinterpret_cast<char *>(none.data()), sizeof(none), 0x7000);
    EXPECT_EQ(none, page(kOne));
}

// The last address below the end of a mapping is in it, the next one is not.
TEST(Rebase, Edges) {
    const std::string text = line(0x100000, 0x1000, "rw-p", 3, "/a");
    const Words found = rebased(text, {0xffff8, 0x100000, 0x100ff8, 0x101000, 0x100004});
    EXPECT_EQ(found[0], 0xffff8U);
    EXPECT_EQ(found[2] - found[1], 0xff8U);
    EXPECT_EQ(found[3], 0x101000U);
    EXPECT_EQ(found[4], 0x100004U) << "a number";
}

} // namespace

} // namespace upm::tool::pss
