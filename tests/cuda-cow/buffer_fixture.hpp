// SPDX-License-Identifier: MIT
//
// A runtime on the fake with a broker, and buffers of a few extents.
#ifndef UPM_TESTS_CUDA_COW_BUFFER_FIXTURE_HPP
#define UPM_TESTS_CUDA_COW_BUFFER_FIXTURE_HPP

#include "tests/cuda-cow/support.hpp"

namespace upm::cuda::test {

inline constexpr std::size_t kExtents = 6; // more than there are spares
inline constexpr std::size_t kBytes = kExtents * kUnit;

inline void expect_same(const upm_fake_stats &now, const upm_fake_stats &before) {
    EXPECT_EQ(now.bytes, before.bytes);
    EXPECT_EQ(now.handles, before.handles);
    EXPECT_EQ(now.mappings, before.mappings);
    EXPECT_EQ(now.reservations, before.reservations);
}

class BufferTest : public testing::Test {
  protected:
    Buffer make(std::size_t bytes = kBytes, std::size_t extent = kUnit) {
        Result<Buffer> made = Buffer::allocate(runtime, bytes, {.extent_bytes = extent});
        EXPECT_TRUE(made) << last_error();
        return std::move(*made);
    }
    Buffer filled(unsigned seed) {
        Buffer made = make();
        store(runtime, made.address(), pattern(kBytes, seed));
        return made;
    }

    Broker broker;
    Runtime runtime = open_fake(broker.socket());
};

} // namespace upm::cuda::test

#endif // UPM_TESTS_CUDA_COW_BUFFER_FIXTURE_HPP
