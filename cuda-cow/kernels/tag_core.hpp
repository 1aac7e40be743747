// SPDX-License-Identifier: MIT
//
// The tag and compare kernels, thread by thread: the same source is compiled by
// nvcc for the GPU and by the host's compiler for the fake driver, so that what a
// thread does is tested without a GPU. The definition of the tag, in its plainest
// form, is in reference.cpp.
//
// An extent is a multiple of 4 KiB. Each 4 KiB group is 256 rows of 16 bytes; a
// block is the 8 rows l, l+32, ..., l+224 of a group, so that the 32 lanes of a warp
// read 512 contiguous bytes at a time and each hashes a block of its own:
//
//   level 1  NH of UMAC (Black, Halevi, Krawczyk, Krovetz, Rogaway, CRYPTO'99) on
//            32-bit words, twice with shifted keys (Toeplitz): 2 x 64 bits per block
//   level 2  NH on those 64-bit words, with keys made for each block: a sum mod
//            2^128 over all blocks, in any order
//   end      the length and a keyed mixing
//
// With ideal keys two different contents collide with a probability of at most
// 2^-64 at each level. The keys are expanded from the seed by splitmix64, so this is
// a keyed hash against accidents and strangers, not a MAC against members of the
// domain; advise compares all bytes anyway.
#ifndef UPM_CUDA_KERNELS_TAG_CORE_HPP
#define UPM_CUDA_KERNELS_TAG_CORE_HPP

#ifdef __CUDACC__
#define UPM_DEVICE __host__ __device__ __forceinline__
#else
#define UPM_DEVICE inline
#endif

namespace upm::cuda::kernels {

using u32 = unsigned int;
using u64 = unsigned long long;
__extension__ typedef unsigned __int128 u128; // NOLINT(modernize-use-using)

inline constexpr u32 kGroupBytes = 4096;
inline constexpr u32 kLanes = 32;
inline constexpr u32 kRowsPerBlock = 8;
inline constexpr u32 kKeyWords = 36; // 32 words of a block, and the shift by 4
inline constexpr u32 kThreads = 256; // of a thread block
inline constexpr u32 kMaxGrid = 512; // thread blocks for one extent

struct Keys {
    u32 words[kKeyWords];
    u64 seed_low;
    u64 seed_high;
};

struct alignas(16) Row {
    u32 x, y, z, w;
};

struct alignas(16) Sum {
    u64 low;
    u64 high;
};

// One extent to hash, or one pair to compare.
struct Job {
    u64 address;
    u64 other; // compare only
    u64 bytes;
};

// Finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA'14).
UPM_DEVICE u64 mix(u64 value) {
    value ^= value >> 30;
    value *= 0xbf58476d1ce4e5b9ULL;
    value ^= value >> 27;
    value *= 0x94d049bb133111ebULL;
    return value ^ (value >> 31);
}

UPM_DEVICE void add(Sum &sum, u64 low, u64 high) {
    sum.low += low;
    sum.high += high + (sum.low < low ? 1 : 0);
}

UPM_DEVICE void multiply(u64 a, u64 b, u64 &low, u64 &high) {
#ifdef __CUDA_ARCH__
    low = a * b;
    high = __umul64hi(a, b);
#else
    const u128 product = static_cast<u128>(a) * b;
    low = static_cast<u64>(product);
    high = static_cast<u64>(product >> 64);
#endif
}

// Level 1 and level 2 of the block that begins at `row`.
UPM_DEVICE void add_block(const Row *row, u64 index, const Keys &keys, Sum &sum) {
    u64 first = 0;
    u64 second = 0;
#ifdef __CUDA_ARCH__
#pragma unroll
#endif
    for (u32 i = 0; i < kRowsPerBlock; ++i) {
        const Row m = row[static_cast<u64>(i) * kLanes];
        const u32 *const k = &keys.words[static_cast<u64>(i) * 4];
        first += static_cast<u64>(m.x + k[0]) * (m.y + k[1]);
        first += static_cast<u64>(m.z + k[2]) * (m.w + k[3]);
        second += static_cast<u64>(m.x + k[4]) * (m.y + k[5]);
        second += static_cast<u64>(m.z + k[6]) * (m.w + k[7]);
    }
    const u64 counter = (index + 1) * 0x9e3779b97f4a7c15ULL;
    u64 low = 0;
    u64 high = 0;
    multiply(first + mix(keys.seed_low + counter), second + mix(keys.seed_high ^ counter), low,
             high);
    add(sum, low, high);
}

// What thread `thread` of `threads` adds to the tag of an extent.
UPM_DEVICE Sum tag_thread(const Row *rows, u64 bytes, const Keys &keys, u64 thread, u64 threads) {
    Sum sum{0, 0};
    const u64 blocks = bytes / kGroupBytes * kLanes;
    for (u64 block = thread; block < blocks; block += threads) {
        const u64 group = block / kLanes;
        const u64 lane = block % kLanes;
        add_block(rows + group * (kGroupBytes / 16) + lane, block, keys, sum);
    }
    return sum;
}

UPM_DEVICE Sum finish(Sum sum, u64 bytes, const Keys &keys) {
    const u64 a = mix(sum.low + keys.seed_high + bytes);
    const u64 b = mix(sum.high ^ keys.seed_low ^ a);
    return Sum{mix(a + b), b};
}

// Whether thread `thread` of `threads` sees a difference.
UPM_DEVICE bool differs_thread(const Row *a, const Row *b, u64 bytes, u64 thread, u64 threads) {
    u32 difference = 0;
    for (u64 i = thread; i < bytes / 16; i += threads) {
        const Row x = a[i];
        const Row y = b[i];
        difference |= (x.x ^ y.x) | (x.y ^ y.y) | (x.z ^ y.z) | (x.w ^ y.w);
    }
    return difference != 0;
}

} // namespace upm::cuda::kernels

#endif // UPM_CUDA_KERNELS_TAG_CORE_HPP
