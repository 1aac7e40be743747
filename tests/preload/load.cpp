// SPDX-License-Identifier: MIT
//
// A program for the hook to be preloaded into: hard on its memory, and sure of
// what must be in it. Exits 0 only if every byte was right.
//
//   upm-hook-load WHAT           threads, forks, signals, calls, zeros, idle
//   upm-hook-load WHAT merged    does it before and after the hook has looked at its memory
#include "tests/preload/check.hpp"
#include "tests/preload/random.hpp"
#include "tests/preload/rests.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <functional>
#include <malloc.h>
#include <string>
#include <string_view>
#include <sys/mman.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <upm/hook.h>
#include <vector>

namespace {

// A block with a pattern: equal patterns are equal pages, also in other processes.
struct Piece {
    unsigned char *memory = nullptr;
    std::size_t size = 0;
    std::uint64_t seed = 0;

    [[nodiscard]] unsigned char byte(std::size_t at) const {
        return static_cast<unsigned char>((at / kPage + 1) * (seed + 3) + at % 251);
    }
    void fill(std::size_t from = 0) const {
        for (std::size_t i = from; i < size; ++i)
            memory[i] = byte(i);
    }
    void check(std::size_t limit = SIZE_MAX) const {
        for (std::size_t i = 0; i < size && i < limit; ++i)
            UPM_CHECK(memory[i] == byte(i));
    }
};

void make(Piece &piece, Random &random) {
    piece.size = 1 + random(random(3) == 0 ? 1024 * kKib : 160 * kKib);
    piece.seed = random(4);
    void *memory = nullptr;
    switch (random(5)) {
    case 0:
        UPM_CHECK(::posix_memalign(&memory, 64UL << random(12), piece.size) == 0);
        break;
    case 1:
        memory = std::calloc(1, piece.size);
        for (std::size_t i = 0; i < piece.size; ++i)
            UPM_CHECK(static_cast<unsigned char *>(memory)[i] == 0);
        break;
    case 2:
        memory = ::aligned_alloc(kPage, (piece.size + kPage - 1) / kPage * kPage);
        break;
    default:
        memory = std::malloc(piece.size);
    }
    UPM_CHECK(memory != nullptr);
    UPM_CHECK(::malloc_usable_size(memory) >= piece.size);
    piece.memory = static_cast<unsigned char *>(memory);
    piece.fill();
}

void grow_or_shrink(Piece &piece, Random &random) {
    const std::size_t before = piece.size;
    piece.size = 1 + random(512 * kKib);
    piece.memory = static_cast<unsigned char *>(std::realloc(piece.memory, piece.size));
    UPM_CHECK(piece.memory != nullptr);
    piece.check(before);
    piece.fill(std::min(before, piece.size));
}

// Allocates, checks, writes, moves and frees, with pauses in which the hook may
// think that the program is idle.
void churn(std::uint64_t seed, int rounds) {
    Random random(seed);
    std::vector<Piece> pieces(24);
    for (int round = 0; round < rounds; ++round) {
        Piece &piece = pieces[random(pieces.size())];
        if (piece.memory == nullptr) {
            make(piece, random);
            continue;
        }
        piece.check();
        switch (random(4)) {
        case 0:
            grow_or_shrink(piece, random);
            break;
        case 1:
            piece.seed = random(4);
            piece.fill();
            break;
        default:
            std::free(piece.memory);
            piece = {};
        }
        if (random(64) == 0)
            std::this_thread::sleep_for(std::chrono::milliseconds(30));
    }
    for (const Piece &piece : pieces) {
        piece.check();
        std::free(piece.memory);
    }
}

int threads() {
    std::vector<std::thread> all;
    for (std::uint64_t i = 0; i < 4; ++i)
        all.emplace_back(churn, i, 600);
    for (std::thread &thread : all)
        thread.join();
    return 0;
}

// Children in a row while other threads allocate; each goes on with what it has
// inherited, and forks once more.
int forks() {
    std::atomic<bool> stop{false};
    std::thread busy([&] {
        for (std::uint64_t seed = 100; !stop; ++seed)
            churn(seed, 100);
    });
    Random random(7);
    std::vector<Piece> inherited(16);
    for (Piece &piece : inherited)
        make(piece, random);
    const auto child = [&](std::uint64_t seed, const std::function<void()> &more) {
        const pid_t pid = ::fork();
        UPM_CHECK(pid >= 0);
        if (pid == 0) {
            (void)::alarm(60);
            for (const Piece &piece : inherited) {
                piece.check();
                std::free(piece.memory);
            }
            churn(seed, 60);
            more();
            std::_Exit(0);
        }
        int status = -1;
        UPM_CHECK(::waitpid(pid, &status, 0) == pid);
        UPM_CHECK(status == 0);
    };
    for (std::uint64_t i = 0; i < 16; ++i) {
        child(i, [] {
            const pid_t pid = ::fork();
            if (pid == 0) {
                churn(1, 20);
                std::_Exit(0);
            }
            int status = -1;
            UPM_CHECK(::waitpid(pid, &status, 0) == pid && status == 0);
        });
        if (i % 8 == 0)
            std::this_thread::sleep_for(std::chrono::milliseconds(30));
    }
    for (const Piece &piece : inherited)
        piece.check();
    stop = true;
    busy.join();
    return 0;
}

std::atomic<int> alarms{0};

// A timer that fires in the middle of everything, blocking calls included.
int signals() {
    struct sigaction action {};
    action.sa_handler = [](int) { ++alarms; };
    action.sa_flags = SA_RESTART;
    UPM_CHECK(::sigaction(SIGALRM, &action, nullptr) == 0);
    const struct itimerval every_ms = {{0, 1000}, {0, 1000}};
    UPM_CHECK(::setitimer(ITIMER_REAL, &every_ms, nullptr) == 0);
    std::thread other(churn, 3, 600);
    churn(4, 600);
    other.join();
    UPM_CHECK(alarms > 10);
    return 0;
}

// From 2 MiB on they begin at a multiple of it, also those that grew or came from others.
void large_blocks() {
    const auto check = [](const Piece &piece) {
        UPM_CHECK(reinterpret_cast<std::uintptr_t>(piece.memory) % (2048 * kKib) == 0);
        piece.check();
    };
    std::vector<Piece> held;
    for (std::size_t i = 0; i < 8; ++i) {
        const std::size_t size = (1024 + 256 * i) * kKib;
        Piece piece{static_cast<unsigned char *>(std::malloc(size)), size, i};
        piece.fill();
        for (const std::size_t more : {3000 * kKib + i, 9000 * kKib, 4000 * kKib}) {
            piece.memory = static_cast<unsigned char *>(std::realloc(piece.memory, more));
            piece.size = std::min(piece.size, more);
            check(piece);
            piece.size = more;
            piece.fill();
        }
        held.push_back(piece);
    }
    for (const Piece &piece : held) {
        check(piece);
        std::free(piece.memory); // and kept, for what follows
    }
    for (const std::size_t size : {2048 * kKib, 5000 * kKib, 70'000 * kKib}) {
        Piece piece{static_cast<unsigned char *>(std::calloc(1, size)), size, 1};
        UPM_CHECK(piece.memory[size / 2] == 0);
        piece.fill();
        check(piece);
        std::free(piece.memory);
    }
}

int calls() {
    constexpr std::size_t kSize = 1024 * kKib;
    for (const std::size_t alignment : {sizeof(void *), 64UL, kPage, 65536UL, 2048 * kKib}) {
        void *memory = nullptr;
        UPM_CHECK(::posix_memalign(&memory, alignment, kSize) == 0);
        UPM_CHECK(reinterpret_cast<std::uintptr_t>(memory) % alignment == 0);
        std::memset(memory, 1, kSize);
        std::free(memory);
    }
    large_blocks();
    void *memory = nullptr;
    UPM_CHECK(::posix_memalign(&memory, 24, kSize) == EINVAL);
    // Through a pointer, so that no compiler knows better.
    void *(*volatile allocate)(std::size_t) = std::malloc;
    errno = 0;
    UPM_CHECK(allocate(SIZE_MAX) == nullptr && errno == ENOMEM);
    UPM_CHECK(allocate(PTRDIFF_MAX) == nullptr && errno == ENOMEM);
    void *(*volatile clear)(std::size_t, std::size_t) = std::calloc;
    UPM_CHECK(clear(SIZE_MAX / 2, 4) == nullptr && errno == ENOMEM);
    void *(*volatile array)(void *, std::size_t, std::size_t) = ::reallocarray;
    UPM_CHECK(array(nullptr, SIZE_MAX / 2, 4) == nullptr && errno == ENOMEM);

    errno = 77;
    memory = allocate(kSize);
    std::free(memory);
    UPM_CHECK(errno == 77);
    memory = std::realloc(nullptr, kSize);
    UPM_CHECK(reinterpret_cast<std::uintptr_t>(memory) % kPage == 0);
    memory = std::realloc(memory, 10); // to the real allocator
    memory = std::realloc(memory, 4 * kSize);
    UPM_CHECK(std::realloc(memory, 0) == nullptr);
    memory = ::valloc(kSize);
    UPM_CHECK(reinterpret_cast<std::uintptr_t>(memory) % kPage == 0);
    std::free(memory);
    memory = ::pvalloc(kSize + 1);
    UPM_CHECK(::malloc_usable_size(memory) >= kSize + kPage);
    std::free(memory);

    void *const map =
        ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    std::memset(map, 5, kSize);
    void *const moved = ::mremap(map, kSize, 3 * kSize, MREMAP_MAYMOVE);
    UPM_CHECK(moved != MAP_FAILED && static_cast<char *>(moved)[kSize - 1] == 5);
    UPM_CHECK(::munmap(moved, kSize) == 0 &&
              ::munmap(static_cast<char *>(moved) + kSize, 2 * kSize) == 0);
    return 0;
}

bool advise() {
    const auto now = reinterpret_cast<int (*)(std::uint64_t, upm_counts *)>(
        ::dlsym(RTLD_DEFAULT, "upm_hook_advise"));
    UPM_CHECK(now != nullptr);
    return now(0, nullptr) == 0;
}

// What must read as zero does so after the memory was merged, whatever the backend.
int zeros() {
    constexpr std::size_t kSize = 256 * kKib;
    for (int round = 0; round < 3; ++round) {
        void *memory = nullptr;
        UPM_CHECK(::posix_memalign(&memory, kPage, kSize) == 0);
        Piece piece{static_cast<unsigned char *>(memory), kSize, 5};
        piece.fill();
        (void)advise();
        piece.check();
        UPM_CHECK(::madvise(memory, kSize / 2, MADV_DONTNEED) == 0);
        for (std::size_t i = 0; i < kSize / 2; ++i)
            UPM_CHECK(piece.memory[i] == 0);
        for (std::size_t i = kSize / 2; i < kSize; ++i)
            UPM_CHECK(piece.memory[i] == piece.byte(i));
        piece.fill();
        (void)advise();
        piece.check();
        UPM_CHECK(::mprotect(memory, kSize, PROT_READ) == 0);
        piece.check();
        UPM_CHECK(::mprotect(memory, kSize, PROT_READ | PROT_WRITE) == 0);
        std::free(memory);
        const auto *const fresh = static_cast<unsigned char *>(std::calloc(1, kSize));
        for (std::size_t i = 0; i < kSize; ++i)
            UPM_CHECK(fresh[i] == 0);
        std::free(const_cast<unsigned char *>(fresh));
    }
    return 0;
}

upm_hook_stats report() {
    const auto ask = reinterpret_cast<int (*)(struct upm_hook_stats *)>(
        ::dlsym(RTLD_DEFAULT, "upm_hook_report"));
    struct upm_hook_stats stats {};
    if (ask != nullptr)
        (void)ask(&stats);
    return stats;
}

// The hook looks at memory when the program is idle, which on a busy machine may be long
// after it was first so.
int before_and_after_a_pass(int (*load)()) {
    constexpr int kTries = 1200;
    Piece held{static_cast<unsigned char *>(std::malloc(4096 * kKib)), 4096 * kKib, 8};
    held.fill();
    int result = load();
    int tries = 0;
    while (report().passes == 0 && !hook_rests()) {
        UPM_CHECK(++tries < kTries);
        std::this_thread::sleep_for(std::chrono::milliseconds(200));
    }
    result = std::max(result, load());
    held.check();
    std::free(held.memory);
    return result;
}

// Holds 8 MiB, says where, and waits for its standard input to end; prints what the hook has
// merged by then without being asked.
int idle() {
    Piece piece{static_cast<unsigned char *>(std::malloc(8192 * kKib)), 8192 * kKib, 9};
    piece.fill();
    (void)std::printf("ready %p\n", static_cast<void *>(piece.memory));
    (void)std::fflush(stdout);
    char byte = 0;
    while (::read(STDIN_FILENO, &byte, 1) > 0) {
    }
    piece.check();
    const upm_hook_stats stats = report();
    const unsigned long long shared =
        stats.counts.merged + stats.counts.inserted + stats.counts.zero;
    (void)std::printf("passes %llu pages %llu shared %llu\n",
                      static_cast<unsigned long long>(stats.passes),
                      static_cast<unsigned long long>(stats.counts.pages), shared);
    return 0;
}

} // namespace

int main(int argc, char **argv) {
    const std::string_view what = argc > 1 ? argv[1] : "";
    const bool merged = argc > 2 && std::string_view(argv[2]) == "merged";
    struct {
        std::string_view name;
        int (*run)();
    } constexpr kLoads[] = {{"threads", threads}, {"forks", forks}, {"signals", signals},
                            {"calls", calls},     {"zeros", zeros}, {"idle", idle}};
    for (const auto &load : kLoads)
        if (load.name == what)
            return merged ? before_and_after_a_pass(load.run) : load.run();
    (void)std::fprintf(stderr, "upm-hook-load: no load '%s'\n", argc > 1 ? argv[1] : "");
    return 2;
}
