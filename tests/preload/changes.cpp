// SPDX-License-Identifier: MIT
//
// A program for the hook with the backend store: changes its mappings in every way while
// they are merged, and is sure of what must come of it. Exits 0 only if all was right, 4 if
// nothing was merged, so that nothing was tried.
//
//   upm-hook-changes WHAT [ARGUMENT]
#include "tests/preload/check.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csetjmp>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <dlfcn.h>
#include <linux/aio_abi.h>
#include <string_view>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <upm/hook.h>
#include <vector>

namespace {

constexpr std::size_t kMib = 1024 * kKib;
constexpr int kNothingTried = 4;

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

void sleep_ms(int ms) {
    std::this_thread::sleep_for(std::chrono::milliseconds(ms));
}

std::uint64_t word(std::size_t at, std::uint64_t seed) {
    return (at + 1) * 0x9e3779b97f4a7c15U ^ seed << 40U;
}

// Content that no other page has.
void fill(void *memory, std::size_t size, std::uint64_t seed) {
    auto *const words = static_cast<std::uint64_t *>(memory);
    for (std::size_t i = 0; i < size / sizeof(*words); ++i)
        words[i] = word(i, seed);
}

bool holds(const void *memory, std::size_t size, std::uint64_t seed, std::size_t from = 0) {
    const auto *const words = static_cast<const std::uint64_t *>(memory);
    for (std::size_t i = from / sizeof(*words); i < size / sizeof(*words); ++i)
        if (words[i] != word(i, seed))
            return false;
    return true;
}

bool is_zero(const void *memory, std::size_t size) {
    const auto *const bytes = static_cast<const char *>(memory);
    return std::all_of(bytes, bytes + size, [](char byte) { return byte == 0; });
}

template <class Function>
Function hook_function(const char *name) {
    const auto found = reinterpret_cast<Function>(::dlsym(RTLD_DEFAULT, name));
    UPM_CHECK(found != nullptr);
    return found;
}

int advise(upm_counts &counts) {
    return hook_function<int (*)(std::uint64_t, upm_counts *)>("upm_hook_advise")(0, &counts);
}

// Ends the program if the backend does not merge here.
void must_share() {
    upm_counts counts{};
    const int error = advise(counts);
    if (counts.merged + counts.inserted == 0) {
        (void)std::fprintf(stderr, "nothing shared: error %d\n", error);
        std::_Exit(kNothingTried);
    }
}

// The same with a block of its own.
void must_share_something() {
    void *const block = std::malloc(kMib);
    fill(block, kMib, 77);
    must_share();
    std::free(block);
}

// A mapping that the hook records (UPM_SCOPE=all).
char *map_at(void *place, std::size_t size, int protection = PROT_READ | PROT_WRITE) {
    const int fixed = place != nullptr ? MAP_FIXED : 0;
    void *const memory =
        ::mmap(place, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | fixed, -1, 0);
    UPM_CHECK(memory != MAP_FAILED);
    return static_cast<char *>(memory);
}

sigjmp_buf on_fault;

bool writable(char *memory) {
    if (sigsetjmp(on_fault, 1) != 0)
        return false;
    *static_cast<volatile char *>(memory) = *memory;
    return true;
}

// --- one call, many mappings ---

// [first block | memory of nobody's | second block, part of which is read-only]
int dontneed() {
    constexpr std::size_t kBlock = 512 * kKib;
    constexpr std::size_t kBetween = 32 * kKib;
    char *const first = map_at(nullptr, 2 * kBlock + kBetween, PROT_NONE);
    char *const between = first + kBlock;
    char *const second = between + kBetween;
    (void)map_at(first, kBlock);
    (void)map_at(between, kBetween);
    (void)map_at(second, kBlock);
    fill(first, kBlock, 1);
    fill(between, kBetween, 2);
    fill(second, kBlock, 3);
    must_share();
    char *const guarded = second + kBlock / 2;
    UPM_CHECK(::mprotect(guarded, 4 * kPage, PROT_READ) == 0);
    constexpr std::size_t kKept = 8 * kPage;
    UPM_CHECK(::madvise(first + kKept, 2 * kBlock + kBetween - 2 * kKept, MADV_DONTNEED) == 0);
    UPM_CHECK(holds(first, kKept, 1));
    UPM_CHECK(is_zero(first + kKept, kBlock - kKept));
    UPM_CHECK(is_zero(between, kBetween));
    UPM_CHECK(is_zero(second, kBlock - kKept));
    UPM_CHECK(holds(second, kBlock, 3, kBlock - kKept));
    UPM_CHECK(!writable(guarded) && writable(guarded - kPage) && writable(guarded + 4 * kPage));
    // A hole is reported, and what is around it is dropped all the same.
    fill(first, kBlock, 4);
    UPM_CHECK(::munmap(between, kBetween) == 0);
    UPM_CHECK(::madvise(first, 2 * kBlock + kBetween, MADV_DONTNEED) == -1 && errno == ENOMEM);
    UPM_CHECK(is_zero(first, kBlock) && is_zero(second, kBlock));
    UPM_CHECK(::madvise(between, kPage, MADV_WILLNEED) == -1 && errno == ENOMEM); // still a hole
    return 0;
}

// The same over neighbouring blocks of malloc.
int dontneed_blocks() {
    constexpr std::size_t kBlock = kMib;
    constexpr std::size_t kBlocks = 16;
    std::vector<char *> blocks;
    for (std::size_t i = 0; i < kBlocks; ++i)
        blocks.push_back(static_cast<char *>(std::malloc(kBlock)));
    std::sort(blocks.begin(), blocks.end());
    for (std::size_t i = 0; i < kBlocks; ++i)
        fill(blocks[i], kBlock, i);
    must_share();
    std::size_t neighbours = 0;
    for (std::size_t i = 0; i + 1 < kBlocks; i += 2) {
        if (blocks[i + 1] != blocks[i] + kBlock)
            continue;
        ++neighbours;
        UPM_CHECK(::madvise(blocks[i] + kPage, 2 * kBlock - 2 * kPage, MADV_DONTNEED) == 0);
        UPM_CHECK(is_zero(blocks[i] + kPage, 2 * kBlock - 2 * kPage));
        UPM_CHECK(holds(blocks[i], kPage, i));
    }
    return neighbours != 0 ? 0 : kNothingTried;
}

// glibc's heap, which is advised as well (UPM_SCOPE=all).
int dontneed_heap() {
    constexpr std::size_t kPiece = 48 * kKib; // below what becomes a block
    std::vector<char *> pieces;
    for (std::size_t i = 0; i < 20; ++i) {
        void *piece = nullptr;
        UPM_CHECK(::posix_memalign(&piece, kPage, kPiece) == 0);
        fill(piece, kPiece, i);
        pieces.push_back(static_cast<char *>(piece));
    }
    must_share();
    for (std::size_t i = 0; i < pieces.size(); ++i) {
        UPM_CHECK(::madvise(pieces[i] + kPage, 4 * kPage, MADV_DONTNEED) == 0);
        UPM_CHECK(is_zero(pieces[i] + kPage, 4 * kPage));
        UPM_CHECK(holds(pieces[i], kPage, i) && holds(pieces[i], kPiece, i, 5 * kPage));
    }
    return 0;
}

// For strace, which holds this call up while the first pass of all begins.
int dontneed_first() {
    constexpr std::size_t kBlock = 4 * kMib;
    auto *const block = static_cast<char *>(std::malloc(kBlock));
    fill(block, kBlock, 5);
    UPM_CHECK(::madvise(block, kBlock / 2, MADV_DONTNEED) == 0);
    UPM_CHECK(is_zero(block, kBlock / 2));
    UPM_CHECK(holds(block, kBlock, 5, kBlock / 2));
    return 0;
}

// --- one step after the other ---

// What was shared is written to, dropped, moved and freed, and advised again each time.
int sequences() {
    constexpr std::size_t kBlock = kMib;
    for (std::uint64_t round = 0; round < 5; ++round) {
        auto *block = static_cast<char *>(std::malloc(kBlock));
        fill(block, kBlock, 50 + round);
        must_share();
        std::memset(block + kBlock / 2, 0, kBlock / 2); // zeros over shared content
        upm_counts counts{};
        (void)advise(counts);
        UPM_CHECK(holds(block, kBlock / 2, 50 + round));
        UPM_CHECK(is_zero(block + kBlock / 2, kBlock / 2));
        block = static_cast<char *>(std::realloc(block, 3 * kBlock));
        UPM_CHECK(holds(block, kBlock / 2, 50 + round));
        UPM_CHECK(is_zero(block + kBlock / 2, kBlock / 2));
        fill(block, 3 * kBlock, 60 + round);
        (void)advise(counts);
        UPM_CHECK(holds(block, 3 * kBlock, 60 + round));
        std::free(block);
        auto *const cleared = static_cast<char *>(std::calloc(1, 3 * kBlock));
        UPM_CHECK(is_zero(cleared, 3 * kBlock));
        std::free(cleared);
    }
    return 0;
}

// A mapping of the program that moves, grows and shrinks.
int moves() {
    std::size_t size = 256 * kKib;
    char *memory = map_at(nullptr, size);
    fill(memory, size, 1);
    must_share();
    for (std::size_t i = 0; i < 100; ++i) {
        const std::size_t next = (256 + i * 37 % 512 / 4 * 4) * kKib;
        void *const moved = ::mremap(memory, size, next, MREMAP_MAYMOVE);
        UPM_CHECK(moved != MAP_FAILED);
        memory = static_cast<char *>(moved);
        UPM_CHECK(holds(memory, std::min(size, next), 1));
        size = next;
        fill(memory, size, 1);
        upm_counts counts{};
        (void)advise(counts);
        UPM_CHECK(holds(memory, size, 1));
        if (i % 10 == 5) { // and is all alike again
            UPM_CHECK(::mprotect(memory + kPage, 4 * kPage, PROT_READ) == 0);
            UPM_CHECK(::mprotect(memory + kPage, 4 * kPage, PROT_READ | PROT_WRITE) == 0);
        }
    }
    // Written to since it was merged, it grows by zeros.
    fill(memory, size, 2);
    must_share();
    fill(memory, size, 3);
    void *const grown = ::mremap(memory, size, size + kMib, MREMAP_MAYMOVE);
    UPM_CHECK(grown != MAP_FAILED);
    memory = static_cast<char *>(grown);
    UPM_CHECK(holds(memory, size, 3) && is_zero(memory + size, kMib));
    // A part goes elsewhere, and of what stays a part is dropped.
    size += kMib;
    fill(memory, size, 4);
    must_share();
    const std::size_t part = 16 * kPage;
    void *const other = ::mremap(memory, part, 2 * part, MREMAP_MAYMOVE);
    UPM_CHECK(other != MAP_FAILED && is_zero(static_cast<char *>(other) + part, part));
    memory += part;
    size -= part;
    UPM_CHECK(::madvise(memory, size / 2, MADV_DONTNEED) == 0 && is_zero(memory, size / 2));
    // What cannot be moved without the hook is not moved with it.
    UPM_CHECK(::mprotect(memory, kPage, PROT_READ) == 0);
    UPM_CHECK(::mremap(memory, size, size + kMib, MREMAP_MAYMOVE) == MAP_FAILED && errno == EFAULT);
    return ::munmap(memory, size);
}

// A child that is forked at some time of an advise has the same bytes, and advises.
int children() {
    constexpr std::size_t kBlock = 16 * kMib;
    must_share_something();
    for (std::uint64_t round = 0; round < 20; ++round) {
        auto *const block = static_cast<char *>(std::malloc(kBlock));
        fill(block, kBlock, round);
        std::thread adviser([] {
            upm_counts counts{};
            (void)advise(counts);
        });
        std::this_thread::sleep_for(std::chrono::microseconds(500 + 900 * round));
        const pid_t child = ::fork();
        UPM_CHECK(child >= 0);
        if (child == 0) {
            (void)::alarm(30); // ends it if it hangs
            UPM_CHECK(holds(block, kBlock, round));
            must_share_something();
            UPM_CHECK(holds(block, kBlock, round));
            std::free(block);
            ::_exit(0);
        }
        adviser.join();
        int status = -1;
        UPM_CHECK(::waitpid(child, &status, 0) == child && status == 0);
        UPM_CHECK(holds(block, kBlock, round));
        std::free(block);
    }
    return 0;
}

// --- changes in the middle of an advise ---

// One thread advises, another one makes the block read-only, unmaps it, or drops it.
template <class Change>
int meanwhile(int rounds, Change change) {
    constexpr std::size_t kBlock = 32 * kMib;
    std::uint64_t shared = 0;
    for (int round = 0; round < rounds; ++round) {
        auto *const block = static_cast<char *>(std::malloc(kBlock));
        fill(block, kBlock, static_cast<std::uint64_t>(round) + 100);
        std::atomic<bool> begun{false};
        upm_counts counts{};
        std::thread adviser([&] {
            begun = true;
            (void)advise(counts);
        });
        while (!begun)
            std::this_thread::yield();
        std::this_thread::sleep_for(std::chrono::microseconds(1000 + 1700 * (round % 20)));
        change(block, kBlock, [&] { adviser.join(); });
        shared += counts.merged + counts.inserted;
    }
    return shared != 0 ? 0 : kNothingTried;
}

int mprotect_meanwhile() {
    return meanwhile(20, [](char *block, std::size_t size, const auto &join) {
        UPM_CHECK(::mprotect(block, size, PROT_READ) == 0);
        join();
        for (std::size_t at = 0; at < size; at += kPage)
            UPM_CHECK(!writable(block + at));
        UPM_CHECK(::mprotect(block, size, PROT_READ | PROT_WRITE) == 0);
        std::free(block);
    });
}

// Without access, the adviser must not even read.
int no_access_meanwhile() {
    return meanwhile(20, [](char *block, std::size_t size, const auto &join) {
        UPM_CHECK(::mprotect(block, size, PROT_NONE) == 0);
        join();
        UPM_CHECK(::mprotect(block, size, PROT_READ | PROT_WRITE) == 0);
        std::free(block);
    });
}

int drop_meanwhile() {
    return meanwhile(20, [](char *block, std::size_t size, const auto &join) {
        UPM_CHECK(::madvise(block, size, MADV_DONTNEED) == 0);
        join();
        UPM_CHECK(is_zero(block, size));
        std::free(block);
    });
}

// What is mapped next at the place of a freed block is its owner's alone.
int free_meanwhile() {
    return meanwhile(20, [](char *block, std::size_t size, const auto &join) {
        std::free(block);
        void *const other = ::mmap(block, size, PROT_READ | PROT_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        UPM_CHECK(other == block || errno == EEXIST);
        if (other == block)
            std::memset(block, 7, size);
        join();
        for (std::size_t at = 0; at < size && other == block; ++at)
            UPM_CHECK(block[at] == 7);
        if (other == block)
            UPM_CHECK(::munmap(block, size) == 0);
    });
}

// A block that was freed with another protection is not handed out again.
int freed_read_only() {
    constexpr std::size_t kBlock = 512 * kKib;
    for (int i = 0; i < 2; ++i) {
        auto *const block = static_cast<char *>(std::malloc(kBlock));
        std::memset(block, 1, kBlock);
        UPM_CHECK(::mprotect(block + kPage, kPage, PROT_READ) == 0);
        std::free(block);
        auto *const next = static_cast<char *>(std::malloc(kBlock));
        UPM_CHECK(writable(next + kPage));
        std::free(next);
        must_share_something();
    }
    return 0;
}

// --- waiting for nobody ---

class Longest {
  public:
    template <class Call>
    void time(const char *name, Call call) {
        const double before = now();
        call();
        if (now() - before > seconds_) {
            seconds_ = now() - before;
            name_ = name;
        }
    }
    void print() const {
        (void)std::printf("longest %.3f s in %s\n", seconds_, name_);
        (void)std::fflush(stdout);
    }

  private:
    double seconds_ = 0;
    const char *name_ = "nothing";
};

// For so many seconds, all that may change mappings, with memory that is to be merged.
int stall(double seconds) {
    Longest longest;
    const double end = now() + seconds;
    std::vector<char *> blocks;
    for (std::uint64_t seed = 1; now() < end; ++seed) {
        constexpr std::size_t kBlock = 24 * kMib;
        auto *const block = static_cast<char *>(std::malloc(kBlock));
        fill(block, kBlock, seed);
        sleep_ms(static_cast<int>(20 + seed * 37 % 100));
        longest.time("fork", [] {
            const pid_t child = ::fork();
            if (child == 0)
                ::_exit(0);
            UPM_CHECK(::waitpid(child, nullptr, 0) == child);
        });
        longest.time("munmap", [] {
            void *const memory = map_at(nullptr, kMib);
            UPM_CHECK(::munmap(memory, kMib) == 0);
        });
        longest.time("mprotect", [&] {
            UPM_CHECK(::mprotect(block + 16 * kMib, kPage, PROT_READ) == 0);
            UPM_CHECK(::mprotect(block + 16 * kMib, kPage, PROT_READ | PROT_WRITE) == 0);
        });
        longest.time("madvise", [&] { UPM_CHECK(::madvise(block, kMib, MADV_DONTNEED) == 0); });
        longest.time("free", [&] { std::free(block); });
    }
    longest.print();
    // To be merged while the program ends.
    fill(std::malloc(24 * kMib), 24 * kMib, 12345);
    sleep_ms(60);
    return 0;
}

// A server that has a new block for each request, and drops it.
int requests(int count) {
    constexpr std::size_t kBlock = 16 * kMib;
    for (int i = 0; i < count; ++i) {
        auto *const block = static_cast<char *>(std::malloc(kBlock));
        fill(block, kBlock, static_cast<std::uint64_t>(i) + 1000);
        must_share();
        std::free(block);
        (void)std::printf("request %d\n", i);
        (void)std::fflush(stdout);
        sleep_ms(700);
    }
    (void)std::getchar(); // until the test has looked
    return 0;
}

// One block that is dropped when nothing else happens.
int one_request() {
    constexpr std::size_t kBlock = 16 * kMib;
    auto *const block = static_cast<char *>(std::malloc(kBlock));
    fill(block, kBlock, 999);
    must_share();
    sleep_ms(3000); // the broker has looked after it was published
    std::free(block);
    (void)std::printf("freed\n");
    (void)std::fflush(stdout);
    (void)std::getchar(); // until the test has looked
    return 0;
}

// Children without fork handlers, at any time of the adviser's.
int bare_clone(int rounds) {
    for (int round = 0; round < rounds; ++round) {
        constexpr std::size_t kBlock = 24 * kMib;
        auto *const block = static_cast<char *>(std::malloc(kBlock));
        fill(block, kBlock, static_cast<std::uint64_t>(round));
        std::this_thread::sleep_for(std::chrono::microseconds(6000 + round * 977 % 9000));
        for (int i = 0; i < 3; ++i) {
            const auto child = static_cast<pid_t>(::syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0));
            UPM_CHECK(child >= 0);
            if (child == 0) {
                (void)::alarm(20); // ends it if it hangs
                (void)::munmap(map_at(nullptr, kMib), kMib);
                (void)::mprotect(block, kPage, PROT_READ);
                (void)::madvise(block, kMib, MADV_DONTNEED);
                std::free(block);
                ::_exit(0);
            }
            int status = -1;
            UPM_CHECK(::waitpid(child, &status, 0) == child);
            UPM_CHECK(status == 0);
            sleep_ms(3);
        }
        UPM_CHECK(holds(block, kBlock, static_cast<std::uint64_t>(round)));
        std::free(block);
    }
    return 0;
}

// What a call costs, in microseconds of this thread: the least of several tries.
template <class Call>
double cost(Call call) {
    constexpr int kCalls = 1000;
    double least = 1e9;
    for (int round = 0; round < 9; ++round) {
        timespec before{};
        timespec after{};
        (void)::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
        for (int i = 0; i < kCalls; ++i)
            call(i);
        (void)::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
        const double ns = static_cast<double>(after.tv_sec - before.tv_sec) * 1e9 +
                          static_cast<double>(after.tv_nsec - before.tv_nsec);
        least = std::min(least, ns / 1000 / kCalls);
    }
    return least;
}

// Twelve thousand blocks make no difference to calls elsewhere.
int many_blocks() {
    constexpr std::size_t kBlocks = 12'000;
    must_share_something();
    char *const other = map_at(nullptr, 16 * kPage);
    const auto drop = [&](int /*unused*/) { (void)::madvise(other, kPage, MADV_DONTNEED); };
    const auto protect = [&](int i) {
        (void)::mprotect(other, kPage, i % 2 == 0 ? PROT_READ : PROT_READ | PROT_WRITE);
    };
    const auto unmap = [&](int /*unused*/) { (void)::munmap(map_at(nullptr, kPage), kPage); };
    const double few[] = {cost(drop), cost(protect), cost(unmap)};
    std::vector<void *> blocks;
    for (std::size_t i = 0; i < kBlocks; ++i) {
        blocks.push_back(std::malloc(64 * kKib));
        *static_cast<char *>(blocks.back()) = 1;
    }
    const double many[] = {cost(drop), cost(protect), cost(unmap)};
    for (int i = 0; i < 3; ++i) {
        (void)std::printf("%.2f us, with many blocks %.2f\n", few[i], many[i]);
        UPM_CHECK(many[i] < few[i] + 2);
    }
    for (void *const block : blocks)
        std::free(block);
    return 0;
}

// --- memory that others write to ---

// Nothing is replaced while asynchronous input and output may be under way.
int asynchronous() {
    constexpr std::size_t kBlock = 4 * kMib;
    fill(std::malloc(kBlock), kBlock, 1);
    aio_context_t context = 0;
    if (::syscall(SYS_io_setup, 8, &context) != 0)
        return kNothingTried;
    upm_counts counts{};
    const int error = advise(counts);
    UPM_CHECK(error == -EBUSY && counts.merged + counts.inserted + counts.zero == 0);
    UPM_CHECK(::syscall(SYS_io_destroy, context) == 0);
    must_share();
    return 0;
}

} // namespace

int main(int argc, char **argv) {
    struct sigaction action {};
    action.sa_handler = [](int) { siglongjmp(on_fault, 1); };
    (void)::sigaction(SIGSEGV, &action, nullptr);
    const std::string_view what = argc > 1 ? argv[1] : "";
    const double number = argc > 2 ? std::strtod(argv[2], nullptr) : 0;
    if (what == "stall")
        return stall(number);
    if (what == "bare-clone")
        return bare_clone(static_cast<int>(number));
    if (what == "requests")
        return requests(static_cast<int>(number));
    struct {
        std::string_view name;
        int (*run)();
    } constexpr kTries[] = {{"dontneed", dontneed},
                            {"dontneed-blocks", dontneed_blocks},
                            {"dontneed-heap", dontneed_heap},
                            {"dontneed-first", dontneed_first},
                            {"mprotect", mprotect_meanwhile},
                            {"no-access", no_access_meanwhile},
                            {"drop", drop_meanwhile},
                            {"free", free_meanwhile},
                            {"freed-read-only", freed_read_only},
                            {"one-request", one_request},
                            {"sequences", sequences},
                            {"moves", moves},
                            {"children", children},
                            {"many-blocks", many_blocks},
                            {"asynchronous", asynchronous}};
    for (const auto &one : kTries)
        if (one.name == what)
            return one.run();
    (void)std::fprintf(stderr, "upm-hook-changes: no try '%s'\n", argc > 1 ? argv[1] : "");
    return 2;
}
