// SPDX-License-Identifier: MIT
#include "tools/upm/keyed_layout.hpp"

#include "libupm/base/layout_state.hpp"

#include <gtest/gtest.h>
#include <string>

namespace upm::tool::cli {

namespace {

constexpr HashKey kKey{.low = 0x0706050403020100, .high = 0x0f0e0d0c0b0a0908};

TEST(KeyedLayout, PlacesLieInTheirRanges) {
    HashKey key = kKey;
    for (int i = 0; i < 10'000; ++i) {
        ++key.low;
        const Places places = places_of(key);
        EXPECT_EQ(places.gap % kLayoutPage, 0U);
        EXPECT_EQ(places.heap % kLayoutPage, 0U);
        EXPECT_GE(places.gap, kLeastGap);
        EXPECT_LT(places.gap, kLeastGap + (kLayoutPage << kMapBits));
        EXPECT_GE(places.heap, kLeastHeap);
        EXPECT_LT(places.heap, kLeastHeap + (kLayoutPage << kHeapBits));
        EXPECT_GE(places.hash_seed, 1U);
        EXPECT_LT(places.hash_seed, std::uint64_t{1} << 32U);
    }
}

// Where others ask for addresses: a program at a fixed place ends below 4 GiB, its heap
// begins above the JVM's 32 GiB and below Go's 0xc000000000, and all mappings lie above a
// program that is loaded at two thirds of all addresses, and its heap.
TEST(KeyedLayout, StaysOutOfTheWay) {
    constexpr std::uint64_t kTop = std::uint64_t{1} << 47U;
    constexpr std::uint64_t kProgram = kTop / 3 * 2 + (4ULL << 30U);
    constexpr std::uint64_t kLastHeap = kLeastHeap + (kLayoutPage << kHeapBits);
    static_assert(kLeastHeap >= 32ULL << 30U);
    static_assert((4ULL << 30U) + kLastHeap < 0xc000000000);
    static_assert(kTop - kLeastGap - (kLayoutPage << kMapBits) >
                  kProgram + kLastHeap + (1ULL << 42U));
    static_assert(kLeastGap + (kLayoutPage << kMapBits) < kTop / 6 * 5, "the kernel's own limit");
}

TEST(KeyedLayout, PlacesAreIndependent) {
    const Places places = places_of(kKey);
    EXPECT_NE((places.gap - kLeastGap) / kLayoutPage >> (kMapBits - kHeapBits),
              (places.heap - kLeastHeap) / kLayoutPage);
    for (unsigned bit = 0; bit < 128; ++bit) {
        HashKey other = kKey;
        (bit < 64 ? other.low : other.high) ^= std::uint64_t{1} << bit % 64;
        EXPECT_NE(places_of(other).gap, places.gap) << bit;
        EXPECT_NE(places_of(other).heap, places.heap) << bit;
        EXPECT_NE(places_of(other).hash_seed, places.hash_seed) << bit;
        EXPECT_NE(places_of(other).free_mark, places.free_mark) << bit;
    }
}

TEST(LayoutState, IsReadAsItWasWritten) {
    const LayoutState state{.gap = 0x123456789000,
                            .stack = UINT64_MAX,
                            .personality = 0x40000,
                            .heap = 4096,
                            .hash_seed = 0xabcdef,
                            .free_mark = 0xf00d};
    const LayoutText text = layout_text(state);
    LayoutState found;
    ASSERT_TRUE(parse_layout_text({text.data(), text.size()}, found));
    EXPECT_EQ(found.gap, state.gap);
    EXPECT_EQ(found.stack, state.stack);
    EXPECT_EQ(found.personality, state.personality);
    EXPECT_EQ(found.heap, state.heap);
    EXPECT_EQ(found.hash_seed, state.hash_seed);
    EXPECT_EQ(found.free_mark, state.free_mark);
}

TEST(LayoutState, NothingElseIsRead) {
    const LayoutText text = layout_text({});
    const std::string good(text.data(), text.size());
    LayoutState state;
    EXPECT_FALSE(parse_layout_text("", state));
    EXPECT_FALSE(parse_layout_text(good + "0", state));
    EXPECT_FALSE(parse_layout_text(good.substr(1), state));
    for (const char wrong : {'g', 'A', ' ', '/', ':', '`', '-'}) {
        std::string bad = good;
        bad[20] = wrong;
        EXPECT_FALSE(parse_layout_text(bad, state)) << wrong;
    }
}

} // namespace

} // namespace upm::tool::cli
