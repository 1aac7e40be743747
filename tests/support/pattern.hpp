// SPDX-License-Identifier: MIT
//
// What the pages of a test hold. The bytes follow from the seed, so that two
// processes make equal pages without talking to each other.
#ifndef UPM_TESTS_SUPPORT_PATTERN_HPP
#define UPM_TESTS_SUPPORT_PATTERN_HPP

#include <cstddef>
#include <cstdint>

namespace upm::test {

enum class Content : std::uint8_t {
    kDistinct,   // every page random
    kMixed,      // by turns: random, all the same, the same but for one byte, zeros
    kDuplicates, // all pages the same random one
    kZeros,
};

struct Pattern {
    Content content = Content::kDistinct;
    std::uint64_t seed = 0;

    // Writes page number `page` to `to`, kPage bytes.
    void fill(std::size_t page, std::byte *to) const;

    // Is page number `page` all zeros?
    [[nodiscard]] bool zero(std::size_t page) const;
};

// Never used before in this run, so that no other test has inserted the content.
// Set UPM_TEST_SEED to repeat a run.
std::uint64_t fresh_seed();

// Fast random numbers of a thread (splitmix64).
class Random {
  public:
    explicit Random(std::uint64_t seed) : state_(seed) {}
    std::uint64_t next();
    std::uint64_t below(std::uint64_t limit) { return next() % limit; }

  private:
    std::uint64_t state_;
};

} // namespace upm::test

#endif // UPM_TESTS_SUPPORT_PATTERN_HPP
