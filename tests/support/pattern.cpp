// SPDX-License-Identifier: MIT
#include "tests/support/pattern.hpp"

#include "tests/support/file.hpp"

#include <cstdlib>
#include <cstring>
#include <ctime>
#include <iostream>
#include <string>

namespace upm::test {

namespace {

void fill_random(std::uint64_t seed, std::byte *to) {
    Random random(seed);
    for (std::size_t i = 0; i < kPage; i += sizeof(std::uint64_t)) {
        const std::uint64_t word = random.next();
        std::memcpy(to + i, &word, sizeof(word));
    }
}

std::uint64_t first_seed() {
    const char *given = std::getenv("UPM_TEST_SEED");
    const std::uint64_t seed =
        given ? std::strtoull(given, nullptr, 0)
              : Random(static_cast<std::uint64_t>(std::time(nullptr))).next() >> 1;
    std::cout << "UPM_TEST_SEED=" << seed << '\n';
    return seed;
}

} // namespace

std::uint64_t Random::next() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

void Pattern::fill(std::size_t page, std::byte *to) const {
    // Far apart, so that pages of neighbouring seeds do not run into each other.
    const std::uint64_t common = Random(seed).next();
    const std::uint64_t own = Random(common ^ (page + 1)).next();

    if (zero(page))
        std::memset(to, 0, kPage);
    else if (content == Content::kDistinct || (content == Content::kMixed && page % 4 == 0))
        fill_random(own, to);
    else
        fill_random(common, to);
    // A comparison that stops early, or a hash alone, must not be taken in.
    if (content == Content::kMixed && page % 4 == 2)
        std::memcpy(to + kPage - sizeof(own), &own, sizeof(own));
}

bool Pattern::zero(std::size_t page) const {
    return content == Content::kZeros || (content == Content::kMixed && page % 4 == 3);
}

std::uint64_t fresh_seed() {
    static std::uint64_t next = first_seed();
    return next++;
}

} // namespace upm::test
