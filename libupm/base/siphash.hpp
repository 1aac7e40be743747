// SPDX-License-Identifier: MIT
//
// SipHash of one number: a function that nobody can foretell or turn round without the
// 16-byte key. After Aumasson and Bernstein, "SipHash: a fast short-input PRF" (2012), for
// messages of exactly eight bytes. <2, 4> is what they propose; <1, 3> is enough for
// tables.
#ifndef UPM_BASE_SIPHASH_HPP
#define UPM_BASE_SIPHASH_HPP

#include <bit>
#include <cstdint>
#include <cstring>
#include <initializer_list>

namespace upm {

struct HashKey {
    std::uint64_t low = 0;
    std::uint64_t high = 0;
};

inline HashKey hash_key(const std::uint8_t (&bytes)[16]) noexcept {
    HashKey key;
    std::memcpy(&key.low, bytes, sizeof(key.low));
    std::memcpy(&key.high, bytes + sizeof(key.low), sizeof(key.high));
    return key;
}

template <int kRounds, int kLastRounds>
constexpr std::uint64_t siphash(const HashKey &key, std::uint64_t word) noexcept {
    std::uint64_t a = key.low ^ 0x736f6d6570736575U; // "somepseudorandomlygeneratedbytes"
    std::uint64_t b = key.high ^ 0x646f72616e646f6dU;
    std::uint64_t c = key.low ^ 0x6c7967656e657261U;
    std::uint64_t d = key.high ^ 0x7465646279746573U;
    const auto mix = [&](int rounds) {
        for (int i = 0; i < rounds; ++i) {
            a += b;
            c += d;
            b = std::rotl(b, 13) ^ a;
            d = std::rotl(d, 16) ^ c;
            a = std::rotl(a, 32) + d;
            c += b;
            d = std::rotl(d, 21) ^ a;
            b = std::rotl(b, 17) ^ c;
            c = std::rotl(c, 32);
        }
    };
    constexpr std::uint64_t kLength = std::uint64_t{sizeof(word)} << 56U;
    for (const std::uint64_t part : {word, kLength}) {
        d ^= part;
        mix(kRounds);
        a ^= part;
    }
    c ^= 0xffU;
    mix(kLastRounds);
    return a ^ b ^ c ^ d;
}

} // namespace upm

#endif // UPM_BASE_SIPHASH_HPP
