// SPDX-License-Identifier: MIT
#include "preload/stacks.hpp"

#include "preload/real.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cxxabi.h>
#include <dlfcn.h>
#include <sched.h>
#include <string_view>
#include <unistd.h>

namespace upm::hook {

namespace {

constexpr std::uint32_t kMaxStacks = 4096; // more different ones are not told apart
constexpr int kMaxFrames = 40;
constexpr std::size_t kPrinted = 10;  // stacks at most,
constexpr std::uint64_t kLeast = 100; // each with that part of all bytes at least
constexpr double kMib = 1 << 20;
constexpr int kOwnFrames = 16; // of the hook itself, on top of the caller's

struct Stack {
    std::atomic<std::uint64_t> hash{0}; // 0: empty
    std::atomic<bool> complete{false};
    int depth = 0;
    std::array<void *, kMaxFrames> frames{};
    std::atomic<std::uint64_t> blocks{0};
    std::atomic<std::uint64_t> allocated{0}; // bytes
    std::atomic<std::uint64_t> merged{0};
    std::atomic<std::uint64_t> inserted{0};
};

using Unwind = int (*)(void **frames, int size);

constinit std::array<Stack, kMaxStacks> stacks;
constinit std::atomic<Unwind> unwind{nullptr};
constinit const void *own_base = nullptr;

// FNV-1a; http://www.isthe.com/chongo/tech/comp/fnv/
std::uint64_t hash_of(void *const *frames, int depth) noexcept {
    std::uint64_t hash = 0xcbf29ce484222325U;
    for (int i = 0; i < depth; ++i)
        hash = (hash ^ reinterpret_cast<std::uintptr_t>(frames[i])) * 0x100000001b3U;
    return hash == 0 ? 1 : hash;
}

bool in_hook(const void *address) noexcept {
    Dl_info info{};
    return ::dladdr(address, &info) != 0 && info.dli_fbase == own_base;
}

// The number of a stack in the table, 0 if that is full.
std::uint32_t intern(void *const *frames, int depth) noexcept {
    const std::uint64_t hash = hash_of(frames, depth);
    for (std::uint32_t probe = 0; probe < kMaxStacks; ++probe) {
        const auto index = static_cast<std::uint32_t>((hash + probe) % kMaxStacks);
        Stack &stack = stacks[index];
        std::uint64_t expected = 0;
        if (stack.hash.compare_exchange_strong(expected, hash)) {
            std::copy(frames, frames + depth, stack.frames.begin());
            stack.depth = depth;
            stack.complete = true;
            return index + 1;
        }
        if (expected == hash)
            return index + 1;
    }
    return 0;
}

// "at::detail::empty_cpu(...)": arguments of templates and functions would fill
// the line.
void shorten(char *name) noexcept {
    int depth = 0;
    char *to = name;
    for (const char *from = name; *from != '\0'; ++from) {
        const bool opens = *from == '(' || *from == '<';
        const bool closes = *from == ')' || *from == '>';
        if (opens && depth++ == 0 && from != name)
            *to++ = *from;
        if (depth == 0)
            *to++ = *from;
        if (closes && depth > 0 && --depth == 0)
            *to++ = *from;
    }
    *to = '\0';
}

// The file of the frame's code without folders, "" if unknown.
const char *find_frame(void *address, Dl_info &info) noexcept {
    // A return address may lie just behind a function that does not return.
    const void *const inside = static_cast<const char *>(address) - 1;
    if (::dladdr(inside, &info) == 0 || info.dli_fname == nullptr)
        return "";
    const char *const slash = std::strrchr(info.dli_fname, '/');
    return slash != nullptr ? slash + 1 : info.dli_fname;
}

// Dozens of frames, the same ones in all stacks.
bool is_interpreter(std::string_view file) noexcept {
    return file.starts_with("python") || file.starts_with("libpython");
}

void print_frame(int fd, void *address) noexcept {
    Dl_info info{};
    const char *const file = find_frame(address, info);
    if (*file == '\0') {
        (void)::dprintf(fd, "      %p\n", address);
        return;
    }
    if (info.dli_sname == nullptr) {
        const auto offset = static_cast<std::size_t>(static_cast<const char *>(address) -
                                                     static_cast<const char *>(info.dli_fbase));
        (void)::dprintf(fd, "      %s+0x%zx\n", file, offset);
        return;
    }
    int status = 0;
    char *const name = abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, &status);
    if (name != nullptr)
        shorten(name);
    (void)::dprintf(fd, "      %s  (%s)\n", name != nullptr ? name : info.dli_sname, file);
    std::free(name);
}

void print_interpreter(int fd, int frames) noexcept {
    if (frames > 0)
        (void)::dprintf(fd, "      (Python, %d frame%s)\n", frames, frames == 1 ? "" : "s");
}

void print_stack(int fd, const Stack &stack) noexcept {
    (void)::dprintf(
        fd, "  %.1f MiB merged, %.1f new, of %.1f allocated in %llu blocks:\n",
        static_cast<double>(stack.merged) / kMib, static_cast<double>(stack.inserted) / kMib,
        static_cast<double>(stack.allocated) / kMib, static_cast<unsigned long long>(stack.blocks));
    int interpreter = 0;
    for (int i = 0; i < stack.depth; ++i) {
        void *const address = stack.frames[static_cast<std::size_t>(i)];
        Dl_info info{};
        if (is_interpreter(find_frame(address, info))) {
            ++interpreter;
            continue;
        }
        print_interpreter(fd, interpreter);
        interpreter = 0;
        print_frame(fd, address);
    }
    print_interpreter(fd, interpreter);
}

} // namespace

bool start_profile() noexcept {
    const Guard guard;
    // Before the handle is used: dlopen runs constructors, which may allocate.
    void *const library = ::dlopen("libunwind.so.8", RTLD_NOW | RTLD_LOCAL);
    void *const function = library != nullptr ? ::dlsym(library, "unw_backtrace") : nullptr;
    Dl_info info{};
    if (function == nullptr || ::dladdr(reinterpret_cast<void *>(&start_profile), &info) == 0)
        return false;
    own_base = info.dli_fbase;
    unwind = reinterpret_cast<Unwind>(function);
    return true;
}

std::uint32_t capture_stack(std::size_t bytes) noexcept {
    const Unwind take = unwind.load(std::memory_order_relaxed);
    if (take == nullptr)
        return 0;
    const Guard guard;
    std::array<void *, kMaxFrames + kOwnFrames> frames{};
    const int depth = take(frames.data(), static_cast<int>(frames.size()));
    int first = 0;
    while (first < depth && in_hook(frames[static_cast<std::size_t>(first)]))
        ++first;
    const int kept = std::min(depth - first, kMaxFrames);
    if (kept <= 0)
        return 0;
    const std::uint32_t number = intern(frames.data() + first, kept);
    if (number != 0) {
        ++stacks[number - 1].blocks;
        stacks[number - 1].allocated += bytes;
    }
    return number;
}

void profile_merged(std::uint32_t stack, std::uint64_t bytes) noexcept {
    if (stack != 0)
        stacks[stack - 1].merged += bytes;
}

void profile_inserted(std::uint32_t stack, std::uint64_t bytes) noexcept {
    if (stack != 0)
        stacks[stack - 1].inserted += bytes;
}

void print_profile(int fd) noexcept {
    if (unwind.load() == nullptr)
        return;
    const Guard guard;
    std::array<const Stack *, kPrinted> best{};
    std::size_t found = 0;
    std::uint64_t sum = 0;
    const auto shared = [](const Stack *stack) { return stack->merged + stack->inserted; };
    for (const Stack &stack : stacks)
        sum += shared(&stack);
    for (const Stack &stack : stacks) {
        if (!stack.complete || shared(&stack) == 0 || shared(&stack) < sum / kLeast)
            continue;
        const Stack *candidate = &stack;
        for (std::size_t i = 0; i < kPrinted && candidate != nullptr; ++i) {
            if (i == found) {
                best[i] = candidate;
                candidate = nullptr;
                ++found;
            } else if (shared(candidate) > shared(best[i])) {
                std::swap(candidate, best[i]);
            }
        }
    }
    (void)::dprintf(fd, "upm[%d]: merged, by the stack that allocated it:\n", ::getpid());
    std::uint64_t printed = 0;
    for (std::size_t i = 0; i < found; ++i) {
        print_stack(fd, *best[i]);
        printed += shared(best[i]);
    }
    if (sum > printed)
        (void)::dprintf(fd, "  %.1f MiB of others\n", static_cast<double>(sum - printed) / kMib);
    if (found == 0)
        (void)::dprintf(fd, "  nothing\n");
}

} // namespace upm::hook
