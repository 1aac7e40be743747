// SPDX-License-Identifier: MIT
//
// Hashing and comparing of extents where they are. The y coordinate of the grid is
// the extent (or the pair), the x coordinate its share of the work.
#include "cuda-cow/kernels/tag_core.hpp"

using namespace upm::cuda::kernels;

namespace {

__device__ Sum reduce(Sum sum) {
    __shared__ Sum partial[kThreads];
    partial[threadIdx.x] = sum;
    __syncthreads();
    for (u32 step = kThreads / 2; step > 0; step /= 2) {
        if (threadIdx.x < step)
            add(partial[threadIdx.x], partial[threadIdx.x + step].low,
                partial[threadIdx.x + step].high);
        __syncthreads();
    }
    return partial[0];
}

} // namespace

// partial[job * gridDim.x + blockIdx.x]
extern "C" __global__ void __launch_bounds__(kThreads)
    upm_tag(const Job *jobs, Sum *partial, const Keys keys) {
    const Job job = jobs[blockIdx.y];
    const u64 thread = static_cast<u64>(blockIdx.x) * kThreads + threadIdx.x;
    const Sum sum = tag_thread(reinterpret_cast<const Row *>(job.address), job.bytes, keys, thread,
                               static_cast<u64>(gridDim.x) * kThreads);
    const Sum total = reduce(sum);
    if (threadIdx.x == 0)
        partial[static_cast<u64>(blockIdx.y) * gridDim.x + blockIdx.x] = total;
}

// tags[job], from `count` partial sums each. One thread block for each job.
extern "C" __global__ void __launch_bounds__(kThreads)
    upm_tag_finish(const Job *jobs, const Sum *partial, u32 count, Sum *tags, const Keys keys) {
    Sum sum{0, 0};
    for (u32 i = threadIdx.x; i < count; i += kThreads) {
        const Sum one = partial[static_cast<u64>(blockIdx.x) * count + i];
        add(sum, one.low, one.high);
    }
    const Sum total = reduce(sum);
    if (threadIdx.x == 0)
        tags[blockIdx.x] = finish(total, jobs[blockIdx.x].bytes, keys);
}

// different[job] becomes 1; it must be 0 before.
extern "C" __global__ void __launch_bounds__(kThreads)
    upm_compare(const Job *jobs, u32 *different) {
    const Job job = jobs[blockIdx.y];
    const u64 thread = static_cast<u64>(blockIdx.x) * kThreads + threadIdx.x;
    const bool differs = differs_thread(reinterpret_cast<const Row *>(job.address),
                                        reinterpret_cast<const Row *>(job.other), job.bytes,
                                        thread, static_cast<u64>(gridDim.x) * kThreads);
    if (__syncthreads_or(differs) != 0 && threadIdx.x == 0)
        different[blockIdx.y] = 1;
}
