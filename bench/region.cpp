// SPDX-License-Identifier: MIT
#include "bench/region.hpp"

#include "bench/error.hpp"

#include <cerrno>
#include <sys/mman.h>

namespace upm::bench {

namespace {

constexpr std::uint64_t kMix = 0x9E3779B97F4A7C15ULL; // odd, so x * kMix is unique
constexpr std::uint64_t kStride = 2654435761ULL;      // prime, so it visits every page

// The content that page `number` of `count` gets.
std::uint64_t content(std::size_t number, std::size_t count, Order order) noexcept {
    return order == Order::kSame ? number : number * kStride % count;
}

// Cheap, since it fills gigabytes under emulation. Never zero.
std::uint64_t word(std::uint64_t content, std::uint64_t index) noexcept {
    return ((content << 10U) + index + 1) * kMix;
}

} // namespace

Region::Region(std::size_t bytes, Pages pages)
    : mapping_(::mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)),
      mapped_(bytes + kHugePage), size_(bytes) {
    if (mapping_ == MAP_FAILED)
        throw Error("cannot map memory", errno);
    const auto address = reinterpret_cast<std::uintptr_t>(mapping_);
    const std::uintptr_t aligned = (address + kHugePage - 1) / kHugePage * kHugePage;
    data_ = static_cast<std::byte *>(mapping_) + (aligned - address);
    // What it was aligned with goes again, so that it is one mapping like any other.
    if (aligned > address)
        (void)::munmap(mapping_, aligned - address);
    if (address + kHugePage > aligned)
        (void)::munmap(data_ + size_, address + kHugePage - aligned);
    mapping_ = data_;
    mapped_ = size_;
    const int advice = pages == Pages::kHuge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE;
    if (::madvise(data_, size_, advice) != 0) {
        const int error = errno;
        (void)::munmap(mapping_, mapped_);
        throw Error("cannot choose the size of pages", error);
    }
}

Region::~Region() {
    (void)::munmap(mapping_, mapped_);
}

std::span<std::uint64_t> Region::page(std::size_t number) const noexcept {
    return {reinterpret_cast<std::uint64_t *>(data_ + (number * kPage)),
            kPage / sizeof(std::uint64_t)};
}

void Region::fill(Order order) noexcept {
    const std::size_t count = size_ / kPage;
    for (std::size_t number = 0; number < count; ++number) {
        std::uint64_t index = 0;
        const std::uint64_t what = content(number, count, order);
        for (std::uint64_t &each : page(number))
            each = word(what, index++);
    }
}

bool Region::intact(Order order) const noexcept {
    const std::size_t count = size_ / kPage;
    for (std::size_t number = 0; number < count; ++number) {
        std::uint64_t index = 0;
        const std::uint64_t what = content(number, count, order);
        for (const std::uint64_t &each : page(number))
            if (each != word(what, index++))
                return false;
    }
    return true;
}

} // namespace upm::bench
