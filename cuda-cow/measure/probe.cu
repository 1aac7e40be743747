// SPDX-License-Identifier: MIT
//
// What upm-cuda-measure has a GPU do: one access of each kind, and work that lasts.
extern "C" {

using u32 = unsigned int;
using u64 = unsigned long long;

__global__ void upm_probe_store(volatile u32 *at, u64) {
    *at = 1;
}

__global__ void upm_probe_atomic(u32 *at, u64) {
    atomicAdd(at, 1U);
}

// The value must be used, or there is no load.
__global__ void upm_probe_load(const volatile u32 *at, u64) {
    if (*at == 0xfeedbeefU)
        asm volatile("trap;");
}

__global__ void upm_probe_spin(const volatile u32 *at, u64 nanoseconds) {
    u64 start = 0;
    u64 now = 0;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
    do {
        if (*at == 0xfeedbeefU)
            asm volatile("trap;");
        asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    } while (now - start < nanoseconds);
}
}
