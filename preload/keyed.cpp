// SPDX-License-Identifier: MIT
#include "preload/keyed.hpp"

#include "libupm/base/layout_state.hpp"
#include "preload/any_libc.h"
#include "preload/free_mark.hpp"
#include "preload/page.hpp"
#include "preload/real.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <pthread.h>
#include <string_view>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace upm::hook {

namespace {

constexpr std::string_view kSeedVariable = "PYTHONHASHSEED";

constinit std::atomic<bool> taken{false};
// Decimal digits; empty: there is no seed.
constinit std::array<char, 24> seed_text{};

// The variable "NAME=value" in the environment, nullptr if there is none.
char **find_variable(std::string_view name) noexcept {
    if (environ == nullptr)
        return nullptr;
    for (char **entry = environ; *entry != nullptr; ++entry)
        if (std::strncmp(*entry, name.data(), name.size()) == 0 && (*entry)[name.size()] == '=')
            return entry;
    return nullptr;
}

// Takes the variable out, and its text out of /proc/PID/environ.
bool take_state(LayoutState &state) noexcept {
    char **entry = find_variable(kLayoutVariable);
    if (entry == nullptr)
        return false;
    char *const text = *entry;
    const bool good = parse_layout_text(text + kLayoutVariable.size() + 1, state);
    for (; *entry != nullptr; ++entry)
        *entry = entry[1];
    std::memset(text, 0, std::strlen(text));
    return good;
}

// Returns false if the limit is not the one of this state: then an older program has passed
// the state on, and nothing here was made by it.
bool put_limit_back(const LayoutState &state) noexcept {
    rlimit limit{};
    if (::getrlimit(RLIMIT_STACK, &limit) != 0 || limit.rlim_cur != state.gap)
        return false;
    limit.rlim_cur = state.stack;
    return ::setrlimit(RLIMIT_STACK, &limit) == 0;
}

// glibc took the limit for the size of stacks when it started. Now it takes what it would
// have taken.
void put_stack_size_back(std::uint64_t limit) noexcept {
    constexpr std::uint64_t kUnlimited = 2UL << 20; // glibc's own choice on both processors
    constexpr std::uint64_t kLeast = 16UL << 10;    // PTHREAD_STACK_MIN
    constexpr std::uint64_t kMost = 1UL << 20;      // no minimum is above it
    pthread_attr_t attributes;
    if (::pthread_attr_init(&attributes) != 0)
        return;
    std::uint64_t size = limit == RLIM_INFINITY ? kUnlimited : std::max(limit, kLeast);
    size = (size + kPageSize - 1) & ~(kPageSize - 1);
    // The minimum is larger where libraries have much thread-local data.
    for (int error = EINVAL; error == EINVAL; size *= 2) {
        error = ::pthread_attr_setstacksize(&attributes, size);
        if (error == 0)
            error = upm_hook_set_thread_default(&attributes);
        if (size > kMost)
            break;
    }
    (void)::pthread_attr_destroy(&attributes);
}

// Moves the start of the heap by steps: the kernel refuses one that is larger than all
// memory. What was stepped over is given back, and counts for no limit but RLIMIT_DATA.
void move_heap(std::uint64_t bytes) noexcept {
    constexpr std::uint64_t kFirstStep = 64UL << 30;
    constexpr std::uint64_t kLeastStep = 64UL << 20;
    void *const failed = reinterpret_cast<void *>(-1);
    std::uint64_t step = kFirstStep;
    std::uint64_t done = 0;
    while (done < bytes) {
        const std::uint64_t now = std::min(step, bytes - done);
        void *const at = ::sbrk(static_cast<std::intptr_t>(now));
        if (at == failed && now / 2 < kLeastStep)
            break;
        if (at == failed) {
            step = now / 2 & ~(kPageSize - 1);
            continue;
        }
        const auto start =
            (reinterpret_cast<std::uintptr_t>(at) + kPageSize - 1) & ~(kPageSize - 1);
        (void)::syscall(SYS_munmap, start, now);
        done += now;
    }
    if (done < bytes && done != 0)
        (void)::sbrk(-static_cast<std::intptr_t>(done));
}

void write_seed(std::uint64_t seed) noexcept {
    std::array<char, 20> digits{};
    std::size_t count = 0;
    for (; seed != 0; seed /= 10)
        digits[count++] = static_cast<char>('0' + seed % 10);
    std::reverse_copy(digits.begin(), digits.begin() + static_cast<std::ptrdiff_t>(count),
                      seed_text.begin());
}

} // namespace

void take_over_layout() noexcept {
    if (taken.exchange(true) || ::getauxval(AT_SECURE) != 0)
        return;
    LayoutState state;
    if (!take_state(state) || !put_limit_back(state))
        return;
    (void)::syscall(SYS_personality, state.personality);
    put_stack_size_back(state.stack);
    move_heap(state.heap);
    write_seed(state.hash_seed);
    if (state.free_mark != 0 && ready())
        set_free_mark(state.free_mark);
}

} // namespace upm::hook

// Python reads its hash seed from the environment. A variable there would go to all children,
// so it is seen by this call only, and is in no environment.
extern "C" __attribute__((visibility("default"))) char *getenv(const char *name) noexcept {
    using namespace upm::hook; // NOLINT(google-build-using-namespace)
    if (seed_text[0] != '\0' && std::strcmp(name, kSeedVariable.data()) == 0 &&
        find_variable(kSeedVariable) == nullptr)
        return seed_text.data();
    if (!ready()) [[unlikely]] { // from inside the search for the real one
        char **const entry = find_variable(name);
        return entry != nullptr ? *entry + std::strlen(name) + 1 : nullptr;
    }
    return real().getenv(name);
}
