// SPDX-License-Identifier: MIT
#include "libupm/store/hash.hpp"

#include <array>
#include <cstddef>
#include <gtest/gtest.h>

namespace upm::store {

namespace {

// Processes of one domain may run with different libraries, and compare hashes.
TEST(StoreHash, TheSameWithAndWithoutWideRegisters) {
    std::array<unsigned char, 65536> bytes{};
    for (std::size_t i = 0; i < bytes.size(); ++i)
        bytes[i] = static_cast<unsigned char>(i * 2654435761U >> 13U);
    for (const std::size_t size : {std::size_t{4096}, std::size_t{16384}, bytes.size()}) {
        const std::uint64_t plain = hash_bytes_plain(bytes.data(), size, 7);
        EXPECT_EQ(hash_bytes(bytes.data(), size, 7), plain);
        EXPECT_NE(hash_bytes_plain(bytes.data(), size, 8), plain) << "the seed counts";
        bytes[size - 1] ^= 1U;
        EXPECT_NE(hash_bytes(bytes.data(), size, 7), plain) << "the last byte counts";
        bytes[size - 1] ^= 1U;
    }
}

} // namespace

} // namespace upm::store
