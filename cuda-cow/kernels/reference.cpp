// SPDX-License-Identifier: MIT
#include "cuda-cow/kernels/reference.hpp"

#include <cstring>

namespace upm::cuda {

namespace {

std::uint64_t splitmix(std::uint64_t value) noexcept {
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9U;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebU;
    return value ^ (value >> 31);
}

std::uint32_t word(const unsigned char *from) noexcept {
    std::uint32_t value = 0;
    std::memcpy(&value, from, sizeof value);
    return value;
}

// NH of 32 words with keys from `k` on.
std::uint64_t nh(const std::uint32_t (&m)[32], const std::uint32_t *k) noexcept {
    std::uint64_t sum = 0;
    for (unsigned i = 0; i < 32; i += 2)
        sum += std::uint64_t{m[i] + k[i]} * std::uint64_t{m[i + 1] + k[i + 1]};
    return sum;
}

} // namespace

kernels::Keys make_keys(std::uint64_t seed_low, std::uint64_t seed_high) noexcept {
    kernels::Keys keys{};
    keys.seed_low = splitmix(seed_low + 0x9e3779b97f4a7c15U);
    keys.seed_high = splitmix(seed_high + 0x9e3779b97f4a7c15U);
    std::uint64_t state = seed_low ^ splitmix(seed_high);
    for (kernels::u32 &key : keys.words) {
        state += 0x9e3779b97f4a7c15U;
        key = static_cast<kernels::u32>(splitmix(state) >> 32);
    }
    return keys;
}

Tag reference_tag(const void *data, std::size_t bytes, const kernels::Keys &keys) noexcept {
    const auto *const base = static_cast<const unsigned char *>(data);
    kernels::u128 sum = 0;
    for (std::size_t block = 0; block < bytes / 128; ++block) {
        const unsigned char *const start = base + block / 32 * 4096 + block % 32 * 16;
        std::uint32_t m[32];
        for (unsigned i = 0; i < 32; ++i)
            m[i] = word(start + std::size_t{i / 4} * 512 + std::size_t{i % 4} * 4);
        const std::uint64_t counter = (block + 1) * 0x9e3779b97f4a7c15U;
        const std::uint64_t a = nh(m, keys.words) + splitmix(keys.seed_low + counter);
        const std::uint64_t b = nh(m, keys.words + 4) + splitmix(keys.seed_high ^ counter);
        sum += static_cast<kernels::u128>(a) * b;
    }
    const auto low = static_cast<std::uint64_t>(sum);
    const auto high = static_cast<std::uint64_t>(sum >> 64);
    const std::uint64_t a = splitmix(low + keys.seed_high + bytes);
    const std::uint64_t b = splitmix(high ^ keys.seed_low ^ a);
    return {.low = splitmix(a + b), .high = b};
}

} // namespace upm::cuda
