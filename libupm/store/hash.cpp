// SPDX-License-Identifier: MIT
#include "libupm/store/hash.hpp"

#include "libupm/base/system.hpp"

#include <cstring>

#define XXH_INLINE_ALL // NOLINT(readability-identifier-naming): what xxhash.h asks for
#include <xxhash.h>

#ifdef __x86_64__
#include <cpuid.h>
#endif

namespace upm::store {

namespace {

#ifdef __x86_64__
// The processor has the instructions, and the kernel keeps the registers. What compilers have
// for this needs a part of libgcc that is not there with every compiler.
bool has_avx2() noexcept {
    constexpr unsigned kRegisters = 6; // of SSE and AVX, in XCR0
    unsigned a = 0;
    unsigned b = 0;
    unsigned c = 0;
    unsigned d = 0;
    if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & bit_OSXSAVE) == 0)
        return false;
    unsigned low = 0;
    unsigned high = 0;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & kRegisters) == kRegisters && __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 &&
           (b & bit_AVX2) != 0;
}
#endif

} // namespace

std::uint64_t hash_bytes_plain(const void *data, std::size_t size, std::uint64_t seed) noexcept {
    return XXH3_64bits_withSeed(data, size, seed);
}

std::uint64_t hash_bytes(const void *data, std::size_t size, std::uint64_t seed) noexcept {
#ifdef __x86_64__
    static const bool wide = has_avx2();
    if (wide)
        return hash_bytes_avx2(data, size, seed);
#endif
    return hash_bytes_plain(data, size, seed);
}

bool is_zero(const std::byte *page) noexcept {
    return page[0] == std::byte{0} && std::memcmp(page, page + 1, page_size() - 1) == 0;
}

} // namespace upm::store
