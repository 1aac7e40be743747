// SPDX-License-Identifier: MIT
#include "bench/cases.hpp"
#include "bench/error.hpp"
#include "bench/timing.hpp"

#include <nlohmann/json.hpp>

#include <cstdint>
#include <cstring>
#include <functional>

namespace upm::bench {

namespace {

constexpr std::size_t kWords = kPage / sizeof(std::uint64_t);

// As kmod/find.c compares two pages and looks for a page of zeros; this file is
// compiled without vector instructions, which a kernel does not use.
bool pages_equal(const std::uint64_t *a, const std::uint64_t *b) noexcept {
    for (std::size_t i = 0; i < kWords; i += 8)
        if (((a[i] ^ b[i]) | (a[i + 1] ^ b[i + 1]) | (a[i + 2] ^ b[i + 2]) | (a[i + 3] ^ b[i + 3]) |
             (a[i + 4] ^ b[i + 4]) | (a[i + 5] ^ b[i + 5]) | (a[i + 6] ^ b[i + 6]) |
             (a[i + 7] ^ b[i + 7])) != 0)
            return false;
    return true;
}

bool page_zero(const std::uint64_t *a) noexcept {
    for (std::size_t i = 0; i < kWords; i += 8)
        if ((a[i] | a[i + 1] | a[i + 2] | a[i + 3] | a[i + 4] | a[i + 5] | a[i + 6] | a[i + 7]) !=
            0)
            return false;
    return true;
}

// As the kernel copies and clears a page.
void string_copy(std::byte *to, const std::byte *from) noexcept {
#if defined(__x86_64__)
    std::size_t count = kWords;
    asm volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
#else
    std::memcpy(to, from, kPage);
#endif
}

void string_clear(std::byte *to) noexcept {
#if defined(__x86_64__)
    std::size_t count = kPage;
    asm volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(0) : "memory");
#else
    std::memset(to, 0, kPage);
#endif
}

const std::uint64_t *words(const std::byte *bytes) noexcept {
    return reinterpret_cast<const std::uint64_t *>(bytes);
}

// `work` gets the offset of a page; it returns whether it found what it expects.
nlohmann::json step(std::size_t pages, const std::function<bool(std::size_t)> &work) {
    bool good = true;
    const Stopwatch watch;
    for (std::size_t i = 0; i < pages; ++i)
        good = work(i * kPage) && good;
    const Timing timing = watch.elapsed();
    if (!good)
        throw Error("memory does not hold what was written to it");
    return {{"pages", pages}, {"wall_ns", timing.wall_ns}, {"cpu_ns", timing.cpu_ns}};
}

} // namespace

nlohmann::json run_copy(const Setup &setup) {
    const std::size_t bytes = setup.mib * kMib;
    const std::size_t pages = bytes / kPage;
    Region source(bytes, setup.pages);
    const Region target(bytes, setup.pages);
    const Region zeros(bytes, setup.pages);
    source.fill(Order::kSame);
    std::memset(target.data(), 1, bytes);
    std::memset(zeros.data(), 0, bytes);

    nlohmann::json run;
    run["memcpy"] = step(pages, [&](std::size_t at) {
        std::memcpy(target.data() + at, source.data() + at, kPage);
        return true;
    });
    run["memcmp"] = step(pages, [&](std::size_t at) {
        return std::memcmp(target.data() + at, source.data() + at, kPage) == 0;
    });
    run["compare"] = step(pages, [&](std::size_t at) {
        return pages_equal(words(target.data() + at), words(source.data() + at));
    });
    run["zero"] = step(pages, [&](std::size_t at) { return page_zero(words(zeros.data() + at)); });
    run["string_copy"] = step(pages, [&](std::size_t at) {
        string_copy(target.data() + at, source.data() + at);
        return true;
    });
    run["string_clear"] = step(pages, [&](std::size_t at) {
        string_clear(zeros.data() + at);
        return true;
    });
    return run;
}

nlohmann::json measure_copy(const Setup &setup) {
    return measure_runs(setup, [&] { return run_copy(setup); });
}

} // namespace upm::bench
