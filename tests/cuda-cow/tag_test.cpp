// SPDX-License-Identifier: MIT
//
// The kernels' threads, run one by one on the host, against the plain definition.
#include "cuda-cow/fake/image.hpp"
#include "cuda-cow/kernels/reference.hpp"
#include "tests/cuda-cow/support.hpp"

#include <cstring>
#include <dlfcn.h>
#include <set>

extern "C" const upm::cuda::fake::Image upm_fake_kernel_image;

namespace upm::cuda::test {

namespace {

const kernels::Keys kKeys = make_keys(0x0123456789abcdef, 0xfedcba9876543210);

const fake::ImageFunction &kernel(const char *name) {
    for (std::size_t i = 0; i < upm_fake_kernel_image.count; ++i)
        if (std::strcmp(upm_fake_kernel_image.functions[i].name, name) == 0)
            return upm_fake_kernel_image.functions[i];
    throw std::runtime_error(name);
}

Tag kernel_tag(const std::vector<unsigned char> &data, unsigned grid) {
    const kernels::Job job{reinterpret_cast<kernels::u64>(data.data()), 0, data.size()};
    std::vector<kernels::Sum> partial(grid);
    kernels::Sum tag{};
    const kernels::Job *jobs = &job;
    kernels::Sum *sums = partial.data();
    kernels::Sum *result = &tag;
    kernels::Keys keys = kKeys;
    kernels::u32 count = grid;
    void *hash[] = {&jobs, &sums, &keys};
    void *finish[] = {&jobs, &sums, &count, &result, &keys};
    kernel("upm_tag").run({{grid, 1, 1}, {kernels::kThreads, 1, 1}}, hash);
    kernel("upm_tag_finish").run({{1, 1, 1}, {kernels::kThreads, 1, 1}}, finish);
    return {tag.low, tag.high};
}

// Any number of thread blocks must give the sum of the definition.
TEST(Tag, KernelMatchesReference) {
    for (const std::size_t bytes : {4096UL, 8192UL, 12288UL, 65536UL, 1UL << 20}) {
        const std::vector<unsigned char> data = pattern(bytes, static_cast<unsigned>(bytes));
        const Tag wanted = reference_tag(data.data(), bytes, kKeys);
        for (const unsigned grid : {1U, 2U, 7U, 32U})
            EXPECT_EQ(kernel_tag(data, grid), wanted) << bytes << " bytes, " << grid << " blocks";
    }
}

// Values fixed on purpose: a manifest of one version must not silently mean
// something else in the next.
TEST(Tag, DefinitionDoesNotChange) {
    std::vector<unsigned char> data(4096);
    for (std::size_t i = 0; i < data.size(); ++i)
        data[i] = static_cast<unsigned char>(i * 7 + i / 256);
    const Tag tag = reference_tag(data.data(), data.size(), kKeys);
    EXPECT_EQ(tag.low, 0xbf149bd4086aca2fU);
    EXPECT_EQ(tag.high, 0x5608e6edebef192dU);
}

TEST(Tag, EveryBitCounts) {
    std::vector<unsigned char> data = pattern(8192, 1);
    std::set<Tag> seen{reference_tag(data.data(), data.size(), kKeys)};
    for (std::size_t byte = 0; byte < data.size(); ++byte) {
        data[byte] ^= static_cast<unsigned char>(1U << byte % 8);
        EXPECT_TRUE(seen.insert(reference_tag(data.data(), data.size(), kKeys)).second) << byte;
        data[byte] ^= static_cast<unsigned char>(1U << byte % 8);
    }
}

// NH is linear in parts: rows, blocks and groups that change places must be seen.
TEST(Tag, OrderAndLengthCount) {
    const std::vector<unsigned char> data = pattern(16384, 2);
    std::set<Tag> seen{reference_tag(data.data(), data.size(), kKeys)};
    for (const std::size_t piece : {4UL, 8UL, 16UL, 128UL, 512UL, 4096UL})
        for (const std::size_t distance : {piece, 2 * piece}) {
            std::vector<unsigned char> other = data;
            std::swap_ranges(other.begin(), other.begin() + static_cast<std::ptrdiff_t>(piece),
                             other.begin() + static_cast<std::ptrdiff_t>(distance));
            EXPECT_TRUE(seen.insert(reference_tag(other.data(), other.size(), kKeys)).second)
                << piece << " at " << distance;
        }
    const std::vector<unsigned char> zeros(16384);
    for (const std::size_t bytes : {4096UL, 8192UL, 12288UL, 16384UL})
        EXPECT_TRUE(seen.insert(reference_tag(zeros.data(), bytes, kKeys)).second) << bytes;
}

TEST(Tag, KeysMatter) {
    const std::vector<unsigned char> data = pattern(4096, 3);
    const Tag one = reference_tag(data.data(), data.size(), make_keys(1, 2));
    EXPECT_NE(one, reference_tag(data.data(), data.size(), make_keys(1, 3)));
    EXPECT_NE(one, reference_tag(data.data(), data.size(), make_keys(2, 2)));
    EXPECT_NE(one, reference_tag(data.data(), data.size(), make_keys(2, 1)));
}

TEST(Compare, FindsASingleByteAnywhere) {
    const std::vector<unsigned char> a = pattern(65536, 4);
    std::vector<unsigned char> b = a;
    kernels::Job job{reinterpret_cast<kernels::u64>(a.data()),
                     reinterpret_cast<kernels::u64>(b.data()), a.size()};
    const kernels::Job *jobs = &job;
    const auto differs = [&] {
        kernels::u32 flag = 0;
        kernels::u32 *result = &flag;
        void *parameters[] = {&jobs, &result};
        kernel("upm_compare").run({{3, 1, 1}, {kernels::kThreads, 1, 1}}, parameters);
        return flag != 0;
    };
    EXPECT_FALSE(differs());
    for (std::size_t byte = 0; byte < b.size(); byte += 509) {
        b[byte] ^= 0x10;
        EXPECT_TRUE(differs()) << byte;
        b[byte] ^= 0x10;
    }
}

} // namespace

} // namespace upm::cuda::test
