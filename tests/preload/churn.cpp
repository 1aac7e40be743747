// SPDX-License-Identifier: MIT
//
// What the hook costs a program that does nothing but to allocate and free: the
// numbers of docs/hook.md.
//
//   upm-hook-churn SMALLEST LARGEST COUNT
//   UPM_TRIGGER=manual LD_PRELOAD=build/lib/libupm-preload.so upm-hook-churn ...
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

int main(int argc, char **argv) {
    if (argc != 4) {
        (void)std::fprintf(stderr, "usage: upm-hook-churn SMALLEST LARGEST COUNT\n");
        return 2;
    }
    const auto smallest = std::strtoull(argv[1], nullptr, 10);
    const auto largest = std::strtoull(argv[2], nullptr, 10);
    const auto count = std::strtoull(argv[3], nullptr, 10);
    std::uint32_t state = 1;
    const auto random = [&] {
        state = state * 1664525U + 1013904223U;
        return state >> 8;
    };
    static char *live[256];
    const auto start = std::chrono::steady_clock::now();
    for (unsigned long long i = 0; i < count; ++i) {
        char *&block = live[random() % 256];
        std::free(block);
        const std::size_t size = smallest + random() % (largest - smallest + 1);
        block = static_cast<char *>(std::malloc(size));
        for (std::size_t at = 0; at < size; at += 4096)
            block[at] = static_cast<char>(at);
    }
    const std::chrono::duration<double, std::nano> spent = std::chrono::steady_clock::now() - start;
    std::printf("%.1f ns for each malloc and free\n", spent.count() / static_cast<double>(count));
    return 0;
}
