// SPDX-License-Identifier: MIT
//
// PyTorch's allocator, called as PyTorch would, with no PyTorch.
#include "tests/cuda/support.hpp"

#include <cstdlib>
#include <cstring>
#include <dlfcn.h>

namespace upm::cuda::test {

namespace {

struct Counts {
    unsigned long long blocks, extents, merged, published, already, refused, different, bytes;
};

class Torch : public testing::Test {
  protected:
    void SetUp() override {
        (void)::setenv("UPM_CUDA_SOCKET", broker.socket().c_str(), 1);
        (void)::setenv("UPM_CUDA_DRIVER", UPM_FAKE_DRIVER, 1);
        (void)::setenv("UPM_CUDA_FAKE", ("granularity=" + std::to_string(kUnit)).c_str(), 1);
        library = ::dlopen(UPM_CUDA_TORCH, RTLD_NOW);
        ASSERT_NE(library, nullptr) << ::dlerror();
        find("upm_cuda_torch_malloc", allocate);
        find("upm_cuda_torch_free", release);
        find("upm_cuda_torch_advise", advise);
        find("upm_cuda_torch_will_write", will_write);
    }
    template <class T>
    void find(const char *name, T &to) {
        to = reinterpret_cast<T>(::dlsym(library, name));
        ASSERT_NE(to, nullptr) << name;
    }

    Broker broker;
    void *library = nullptr;
    void *(*allocate)(ssize_t, int, void *) = nullptr;
    void (*release)(void *, ssize_t, int, void *) = nullptr;
    int (*advise)(Counts *) = nullptr;
    int (*will_write)(const void *, std::size_t) = nullptr;
};

// On the fake, device memory can be touched directly.
TEST_F(Torch, EqualBlocksAreShared) {
    constexpr ssize_t kBytes = 3 * kUnit;
    void *const one = allocate(kBytes, 0, nullptr);
    void *const two = allocate(kBytes, 0, nullptr);
    ASSERT_NE(one, nullptr);
    ASSERT_NE(two, nullptr);
    const std::vector<unsigned char> bytes = pattern(kBytes, 1);
    std::memcpy(one, bytes.data(), kBytes);
    std::memcpy(two, bytes.data(), kBytes);
    Counts counts = {};
    ASSERT_EQ(advise(&counts), 0);
    EXPECT_EQ(counts.blocks, 2U);
    EXPECT_EQ(counts.published, 3U);
    EXPECT_EQ(counts.merged, 3U);
    EXPECT_EQ(counts.bytes, 2U * kBytes);
    ASSERT_EQ(will_write(two, 1), 0);
    std::memset(two, 0, 1);
    EXPECT_EQ(std::memcmp(one, bytes.data(), kBytes), 0);
    release(one, kBytes, 0, nullptr);
    EXPECT_EQ(std::memcmp(static_cast<char *>(two) + 1, bytes.data() + 1, kBytes - 1), 0);
    release(two, kBytes, 0, nullptr);
    ASSERT_EQ(advise(&counts), 0);
    EXPECT_EQ(counts.blocks, 0U);
}

TEST_F(Torch, FailsLikeAnAllocator) {
    EXPECT_EQ(allocate(0, 0, nullptr), nullptr);
    EXPECT_EQ(allocate(1, 7, nullptr), nullptr) << "no such device";
    release(nullptr, 0, 0, nullptr);
}

} // namespace

} // namespace upm::cuda::test
