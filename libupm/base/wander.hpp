// SPDX-License-Identifier: MIT
//
// Pauses, in bytes, between questions about what a program reads. A program that reads one file
// again and again would be asked about always the same part of it, if the pauses were multiples of
// its size: so each is shorter than it could be by a part that differs.
#ifndef UPM_BASE_WANDER_HPP
#define UPM_BASE_WANDER_HPP

#include <cstdint>

namespace upm {

// A pause is shorter by one part of so many, at most.
inline constexpr std::uint64_t kMostShorter = 4;

// Evenly spaced parts would not do: their sums come back to the same few places of some files.
// Pre: pause < 2^48. `turn`: how many pauses there were before.
constexpr std::uint64_t wandering_pause(std::uint64_t pause, std::uint64_t turn) noexcept {
    constexpr unsigned kBits = 16;
    std::uint64_t mixed = turn * 0x9e3779b97f4a7c15;
    mixed = (mixed ^ mixed >> 32U) * 0xd6e8feb86659fd93;
    const std::uint64_t part = (mixed ^ mixed >> 32U) >> (64U - kBits); // of 2^kBits
    return pause - (pause / kMostShorter * part >> kBits);
}

} // namespace upm

#endif // UPM_BASE_WANDER_HPP
