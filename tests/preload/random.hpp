// SPDX-License-Identifier: MIT
//
// Numbers that a seed repeats, for programs that the hook is preloaded into: Knuth's linear
// congruential generator (MMIX), of which the low bits are left out.
#ifndef UPM_TESTS_PRELOAD_RANDOM_HPP
#define UPM_TESTS_PRELOAD_RANDOM_HPP

#include <cstdint>

class Random {
  public:
    explicit Random(std::uint64_t seed) : state_(seed * 2 + 1) {}
    std::uint64_t operator()(std::uint64_t below) {
        state_ = state_ * 6364136223846793005U + 1442695040888963407U;
        return (state_ >> 33) % below;
    }

  private:
    std::uint64_t state_;
};

#endif // UPM_TESTS_PRELOAD_RANDOM_HPP
