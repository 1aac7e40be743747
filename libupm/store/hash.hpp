// SPDX-License-Identifier: MIT
//
// What can be told from the bytes of a page: its hash (XXH3, seeded), which is the same
// on every machine and as fast as this one allows (Debian compiles for processors without
// AVX2), and that it is empty.
#ifndef UPM_STORE_HASH_HPP
#define UPM_STORE_HASH_HPP

#include <cstddef>
#include <cstdint>

namespace upm::store {

std::uint64_t hash_bytes(const void *data, std::size_t size, std::uint64_t seed) noexcept;

// The two that hash_bytes() chooses from. The second one is there on x86-64 only.
std::uint64_t hash_bytes_plain(const void *data, std::size_t size, std::uint64_t seed) noexcept;
std::uint64_t hash_bytes_avx2(const void *data, std::size_t size, std::uint64_t seed) noexcept;

// Returns true if a page holds nothing but zeros.
bool is_zero(const std::byte *page) noexcept;

} // namespace upm::store

#endif // UPM_STORE_HASH_HPP
