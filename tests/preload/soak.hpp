// SPDX-License-Identifier: MIT
//
// What all kinds of work in tests/preload/soak.cpp stand on: the log, checks that end the
// program, memory with patterns, and children that are timed.
#ifndef UPM_TESTS_PRELOAD_SOAK_HPP
#define UPM_TESTS_PRELOAD_SOAK_HPP

#include "tests/preload/random.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <dlfcn.h>
#include <string>
#include <string_view>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <upm/hook.h>

namespace soak {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kKib = 1024;
constexpr std::uint64_t kSlowUs = 5000;
constexpr std::uint64_t kPatterns = 8; // also the number of files

inline std::string_view kind;
inline int log_fd = -1;
inline const int hooked = std::getenv("LD_PRELOAD") != nullptr ? 1 : 0;
inline std::string files;
inline std::atomic<bool> told_to_stop{false};
inline std::uint64_t deadline = 0;
inline std::atomic<std::uint64_t> forks{0};
// When the child that is waited for began to exit; shared with it.
inline std::atomic<std::uint64_t> *exit_began = nullptr;

inline std::uint64_t now_us() {
    timespec now{};
    (void)::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000 +
           static_cast<std::uint64_t>(now.tv_nsec) / 1000;
}

template <class... Arguments>
void note(const char *format, Arguments... arguments) {
    char line[256];
    const int length = std::snprintf(line, sizeof(line), format, arguments...);
    (void)!::write(log_fd, line, static_cast<std::size_t>(length));
}

[[noreturn]] inline void fail(const char *what, const char *file, int line) {
    const int error = errno;
    note("wrong %s %s line %d errno %d\n", kind.data(), what, line, error);
    (void)std::fprintf(stderr, "%s:%d: %s: %s (errno %d)\n", file, line, kind.data(), what, error);
    std::_Exit(1);
}
#define UPM_CHECK(condition)                                                                       \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fail(#condition, __FILE_NAME__, __LINE__);                                             \
    } while (false)

inline bool over() {
    return told_to_stop.load() || now_us() > deadline;
}

inline void pause_ms(std::uint64_t ms) {
    const timespec time{.tv_sec = 0, .tv_nsec = static_cast<long>(ms * 1'000'000)};
    (void)::nanosleep(&time, nullptr);
}

inline void note_slow(const char *what, std::uint64_t begin, std::uint64_t end) {
    if (end - begin > kSlowUs)
        note("slow %s %s %d %d %llu %llu\n", what, kind.data(), hooked, ::getpgrp(),
             static_cast<unsigned long long>(begin), static_cast<unsigned long long>(end));
}

inline std::uint64_t word(std::uint64_t pattern, std::size_t index) {
    constexpr std::size_t kWords = kPage / sizeof(std::uint64_t);
    return ((index / kWords + 1) * (pattern + 3) << 20U) + index % kWords;
}

// A block with a pattern: equal patterns are equal pages, also in other processes.
struct Piece {
    std::uint64_t *memory = nullptr;
    std::size_t size = 0; // bytes, whole words
    std::uint64_t pattern = 0;

    void fill(std::size_t from = 0) const {
        for (std::size_t i = from / sizeof(*memory); i < size / sizeof(*memory); ++i)
            memory[i] = word(pattern, i);
    }
    void check(std::size_t limit = SIZE_MAX) const {
        for (std::size_t i = 0; i < std::min(limit, size) / sizeof(*memory); ++i)
            UPM_CHECK(memory[i] == word(pattern, i));
    }
    void allocate(Random &random, std::size_t bytes) {
        size = bytes;
        pattern = random(kPatterns);
        void *block = nullptr;
        if (random(3) == 0)
            UPM_CHECK(::posix_memalign(&block, kPage << random(10), size) == 0);
        else
            block = std::malloc(size);
        UPM_CHECK(block != nullptr);
        memory = static_cast<std::uint64_t *>(block);
    }
    void release() {
        std::free(memory);
        *this = {};
    }
};

inline std::size_t some_size(Random &random) {
    return (64 + random(random(4) == 0 ? 2048 : 256)) * kKib;
}

// --- forks and their measurement ---

template <class Body>
void in_child(Body body) {
    *exit_began = 0;
    const std::uint64_t begin = now_us();
    const pid_t pid = ::fork();
    if (pid == 0) {
        (void)::prctl(PR_SET_PDEATHSIG, SIGKILL);
        body();
        *exit_began = now_us();
        std::_Exit(0);
    }
    const std::uint64_t end = now_us();
    UPM_CHECK(pid > 0);
    note_slow("fork", begin, end);
    if (++forks % 8 == 0)
        note("count fork %s %d 8\n", kind.data(), hooked);
    int status = -1;
    while (::waitpid(pid, &status, 0) < 0)
        UPM_CHECK(errno == EINTR);
    const std::uint64_t done = now_us();
    UPM_CHECK(status == 0);
    note_slow("exit", *exit_began, done);
}

inline void advise_now() {
    static const auto advise = reinterpret_cast<int (*)(std::uint64_t, upm_counts *)>(
        ::dlsym(RTLD_DEFAULT, "upm_hook_advise"));
    if (advise != nullptr)
        (void)advise(0, nullptr);
}

} // namespace soak

#endif // UPM_TESTS_PRELOAD_SOAK_HPP
