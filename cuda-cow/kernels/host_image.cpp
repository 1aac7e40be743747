// SPDX-License-Identifier: MIT
//
// The kernels of tag.cu for the fake driver: the same threads, one after the other.
// Only the sums within a thread block (reduce, __syncthreads_or) are left out.
#include "cuda-cow/fake/image.hpp"
#include "cuda-cow/kernels/tag_core.hpp"

namespace upm::cuda::kernels {

namespace {

using fake::ImageFunction;
using fake::Launch;

template <class T>
T parameter(void **parameters, unsigned index) {
    return *static_cast<T *>(parameters[index]);
}

const Row *rows(u64 address) {
    return reinterpret_cast<const Row *>(address);
}

void tag(const Launch &launch, void **parameters) {
    const auto *const jobs = parameter<const Job *>(parameters, 0);
    auto *const partial = parameter<Sum *>(parameters, 1);
    const Keys &keys = *static_cast<Keys *>(parameters[2]);
    for (u32 y = 0; y < launch.grid[1]; ++y)
        for (u32 x = 0; x < launch.grid[0]; ++x) {
            Sum total{0, 0};
            for (u32 t = 0; t < launch.block[0]; ++t) {
                const Sum sum =
                    tag_thread(rows(jobs[y].address), jobs[y].bytes, keys,
                               u64{x} * launch.block[0] + t, u64{launch.grid[0]} * launch.block[0]);
                add(total, sum.low, sum.high);
            }
            partial[u64{y} * launch.grid[0] + x] = total;
        }
}

void tag_finish(const Launch &launch, void **parameters) {
    const auto *const jobs = parameter<const Job *>(parameters, 0);
    const auto *const partial = parameter<const Sum *>(parameters, 1);
    const auto count = parameter<u32>(parameters, 2);
    auto *const tags = parameter<Sum *>(parameters, 3);
    const Keys &keys = *static_cast<Keys *>(parameters[4]);
    for (u32 job = 0; job < launch.grid[0]; ++job) {
        Sum total{0, 0};
        for (u32 i = 0; i < count; ++i)
            add(total, partial[u64{job} * count + i].low, partial[u64{job} * count + i].high);
        tags[job] = finish(total, jobs[job].bytes, keys);
    }
}

void compare(const Launch &launch, void **parameters) {
    const auto *const jobs = parameter<const Job *>(parameters, 0);
    auto *const different = parameter<u32 *>(parameters, 1);
    const u64 threads = u64{launch.grid[0]} * launch.block[0];
    for (u32 y = 0; y < launch.grid[1]; ++y)
        for (u64 t = 0; t < threads; ++t)
            if (differs_thread(rows(jobs[y].address), rows(jobs[y].other), jobs[y].bytes, t,
                               threads))
                different[y] = 1;
}

constexpr std::size_t kTagSizes[] = {8, 8, sizeof(Keys)};
constexpr std::size_t kFinishSizes[] = {8, 8, 4, 8, sizeof(Keys)};
constexpr std::size_t kCompareSizes[] = {8, 8};
constexpr ImageFunction kFunctions[] = {
    {"upm_tag", 3, kTagSizes, tag},
    {"upm_tag_finish", 5, kFinishSizes, tag_finish},
    {"upm_compare", 2, kCompareSizes, compare},
};

} // namespace

} // namespace upm::cuda::kernels

// NOLINTNEXTLINE(readability-identifier-naming): a symbol of C
extern "C" [[gnu::visibility("default")]] const upm::cuda::fake::Image upm_fake_kernel_image{
    .count = 3, .functions = upm::cuda::kernels::kFunctions};
