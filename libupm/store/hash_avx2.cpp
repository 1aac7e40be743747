// SPDX-License-Identifier: MIT
//
// Compiled for processors with AVX2, so nothing may be included here that has inline
// functions: the linker might take those of this file for the whole program.
#include "libupm/store/hash.hpp"

#ifdef __x86_64__

#define XXH_INLINE_ALL // NOLINT(readability-identifier-naming): what xxhash.h asks for
#include <xxhash.h>

static_assert(XXH_VECTOR == XXH_AVX2);

std::uint64_t upm::store::hash_bytes_avx2(const void *data, std::size_t size,
                                          std::uint64_t seed) noexcept {
    return XXH3_64bits_withSeed(data, size, seed);
}

#endif
