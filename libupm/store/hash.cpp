// SPDX-License-Identifier: MIT
#include "libupm/store/hash.hpp"

#include "libupm/base/system.hpp"

#include <cstring>

#define XXH_INLINE_ALL // NOLINT(readability-identifier-naming): what xxhash.h asks for
#include <xxhash.h>

namespace upm::store {

std::uint64_t hash_bytes_plain(const void *data, std::size_t size, std::uint64_t seed) noexcept {
    return XXH3_64bits_withSeed(data, size, seed);
}

std::uint64_t hash_bytes(const void *data, std::size_t size, std::uint64_t seed) noexcept {
#ifdef __x86_64__
    static const bool wide = __builtin_cpu_supports("avx2") != 0;
    if (wide)
        return hash_bytes_avx2(data, size, seed);
#endif
    return hash_bytes_plain(data, size, seed);
}

bool is_zero(const std::byte *page) noexcept {
    return page[0] == std::byte{0} && std::memcmp(page, page + 1, page_size() - 1) == 0;
}

} // namespace upm::store
