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
#include <fcntl.h>
#include <pthread.h>
#include <string_view>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
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

// The kernel refuses a step of the heap that is larger than all memory, unless the system is
// told to promise anything.
std::uint64_t largest_step() noexcept {
    constexpr std::uint64_t kMost = 64UL << 30;
    struct sysinfo memory {};
    if (::syscall(SYS_sysinfo, &memory) != 0)
        return kMost;
    const std::uint64_t all = (std::uint64_t{memory.totalram} + memory.totalswap) * memory.mem_unit;
    return std::min(kMost, all & ~(kPageSize - 1));
}

// The whole pages of the heap that end before `end` and were stepped over: from then on they
// count for no limit but RLIMIT_DATA.
void give_back(std::uintptr_t end, std::uint64_t bytes) noexcept {
    const std::uintptr_t start = (end - bytes + kPageSize - 1) & ~(kPageSize - 1);
    (void)::syscall(SYS_munmap, start, (end & ~(kPageSize - 1)) - start);
}

// Returns true where what a process takes for a moment may be missing elsewhere.
bool promises_are_counted() noexcept {
    char mode = '0';
    const int fd = ::open("/proc/sys/vm/overcommit_memory", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    const bool known = ::syscall(SYS_read, fd, &mode, sizeof(mode)) == 1;
    (void)::close(fd);
    return known && mode == '2';
}

// Moves the start of the heap, by steps that are given back together; where one of them is
// refused (RLIMIT_AS, an old kernel, vm.overcommit_memory), by smaller ones, each given back
// at once.
void move_heap(std::uint64_t bytes) noexcept {
    constexpr std::uint64_t kSmallStep = 256UL << 20;
    constexpr std::uint64_t kLeastStep = 64UL << 20;
    void *const failed = reinterpret_cast<void *>(-1);
    std::uint64_t step = largest_step();
    std::uint64_t done = 0;
    std::uint64_t kept = 0; // of it, and not given back yet
    bool at_once = false;
    while (done < bytes && step >= kLeastStep) {
        const std::uint64_t now = std::min(step, bytes - done);
        if (::sbrk(static_cast<std::intptr_t>(now)) != failed) {
            done += now;
            kept += now;
        } else {
            const bool counted = !at_once && promises_are_counted();
            step = std::min(now / 2 & ~(kPageSize - 1), counted ? kSmallStep : step);
            at_once = true;
        }
        if (kept != 0 && (at_once || done == bytes)) {
            give_back(reinterpret_cast<std::uintptr_t>(::sbrk(0)), kept);
            kept = 0;
        }
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
