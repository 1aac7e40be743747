// SPDX-License-Identifier: MIT
//
// Reads files that others read or change at the same time. Each word of a file says where it
// is and of which version, so that each byte that comes can be judged. Used by reads_test.py.
//
//     upm-hook-read-races WHAT FOLDER SECONDS
//
// Exit status: 0, 1 for a wrong byte or position. Says on standard error how many bytes came
// to share, if the hook is there.
#include "tests/preload/free_later.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <dlfcn.h>
#include <fcntl.h>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>
#include <upm/hook.h>
#include <vector>

namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kBytes = 6UL << 20;
constexpr std::size_t kWords = kBytes / sizeof(std::uint64_t);
constexpr unsigned kVersionBits = 16;

std::string path;
double seconds = 1;

[[noreturn]] void fail(const char *what, std::uint64_t first = 0, std::uint64_t second = 0) {
    (void)std::fprintf(stderr, "%s: %" PRIx64 " %" PRIx64 "\n", what, first, second);
    std::_Exit(1);
}

double now() {
    timespec time{};
    ::clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e9;
}

std::uint64_t word(std::size_t index, std::uint64_t version) {
    return (static_cast<std::uint64_t>(index) + 1) << kVersionBits | version;
}

std::vector<std::uint64_t> content(std::uint64_t version) {
    std::vector<std::uint64_t> words(kWords);
    for (std::size_t i = 0; i < kWords; ++i)
        words[i] = word(i, version);
    return words;
}

int make_file(const std::string &name, std::uint64_t version) {
    const int fd = ::open(name.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    const std::vector<std::uint64_t> words = content(version);
    if (fd < 0 || ::write(fd, words.data(), kBytes) != static_cast<ssize_t>(kBytes))
        fail("cannot write the file");
    return fd;
}

// A block of the hook's, new for each read.
class Memory {
  public:
    Memory() {
        void *block = nullptr;
        if (::posix_memalign(&block, kPage, kBytes) != 0)
            fail("no memory");
        words_ = static_cast<std::uint64_t *>(block);
    }
    Memory(const Memory &) = delete;
    Memory &operator=(const Memory &) = delete;
    ~Memory() { free_later(words_); }
    [[nodiscard]] std::uint64_t *words() const { return words_; }

  private:
    std::uint64_t *words_ = nullptr;
};

// Somebody who changes the file while it is read.
template <class Change, class Read>
void meanwhile(Change change, Read read) {
    std::atomic<bool> over{false};
    std::thread changer([&] {
        for (std::uint64_t i = 0; !over; ++i)
            change(i);
    });
    for (const double end = now() + seconds; now() < end;)
        read();
    over = true;
    changer.join();
}

// Each word is right for its place, of whatever version.
void check_places(const std::uint64_t *words, std::size_t bytes, bool zero_allowed) {
    for (std::size_t i = 0; i < bytes / sizeof(*words); ++i)
        if (words[i] >> kVersionBits != i + 1 && !(zero_allowed && words[i] == 0))
            fail("a wrong word", i, words[i]);
}

void writer() {
    const int fd = make_file(path, 0);
    meanwhile(
        [&](std::uint64_t i) {
            const std::size_t at = i * 7919 * kPage / 8 % kWords;
            const std::uint64_t fresh = word(at, i % (1U << kVersionBits));
            (void)!::pwrite(fd, &fresh, sizeof(fresh), static_cast<off_t>(at * sizeof(fresh)));
            if (i % 64 == 0)
                ::usleep(50);
        },
        [&] {
            const Memory memory;
            if (::pread(fd, memory.words(), kBytes, 0) != static_cast<ssize_t>(kBytes))
                fail("a short read");
            check_places(memory.words(), kBytes, false);
        });
    ::close(fd);
}

void truncation() {
    const int fd = make_file(path, 0);
    const std::vector<std::uint64_t> words = content(0);
    meanwhile(
        [&](std::uint64_t i) {
            const auto size = static_cast<off_t>(i * 1'234'567 % kWords * sizeof(std::uint64_t));
            (void)!::ftruncate(fd, size);
            (void)!::ftruncate(fd, kBytes);
            ::usleep(300);
            (void)!::pwrite(fd, words.data(), kBytes, 0);
            ::usleep(3000);
        },
        [&] {
            const Memory memory;
            const ssize_t got = ::pread(fd, memory.words(), kBytes, 0);
            if (got < 0)
                fail("an error");
            check_places(memory.words(), static_cast<std::size_t>(got), true);
        });
    ::close(fd);
}

void renaming() {
    ::close(make_file(path, 0));
    meanwhile(
        [&](std::uint64_t i) {
            ::close(make_file(path + ".new", i % 5));
            if (std::rename((path + ".new").c_str(), path.c_str()) != 0)
                fail("cannot rename");
        },
        [&] {
            const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
            const Memory memory;
            const std::uint64_t *const words = memory.words();
            if (::read(fd, memory.words(), kBytes) != static_cast<ssize_t>(kBytes))
                fail("a short read");
            const std::uint64_t version = words[0] % (1U << kVersionBits);
            for (std::size_t i = 0; i < kWords; ++i)
                if (words[i] != word(i, version))
                    fail("another version", version, words[i]);
            ::close(fd);
        });
}

// Each byte goes to one of them, and only once.
void one_descriptor() {
    ::close(make_file(path, 0));
    for (const double end = now() + seconds; now() < end;) {
        const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
        std::mutex mutex;
        std::map<std::uint64_t, std::size_t> parts; // first word, bytes
        const auto work = [&](std::size_t size) {
            for (;;) {
                const Memory memory;
                const ssize_t got = ::read(fd, memory.words(), size);
                if (got == 0)
                    return;
                const std::uint64_t first = memory.words()[0];
                for (std::size_t i = 0; i < static_cast<std::size_t>(got) / 8; ++i)
                    if (memory.words()[i] != word((first >> kVersionBits) - 1 + i, 0))
                        fail("a part with a gap", first, i);
                const std::lock_guard lock(mutex);
                if (!parts.emplace(first >> kVersionBits, got).second)
                    fail("read twice", first);
            }
        };
        // Above what one process alone only registers.
        std::thread other(work, 1200UL << 10);
        work(2UL << 20);
        other.join();
        std::uint64_t next = 1;
        for (const auto &[first, bytes] : parts) {
            if (first != next)
                fail("a gap", next, first);
            next = first + bytes / sizeof(std::uint64_t);
        }
        if (next != kWords + 1 || ::lseek(fd, 0, SEEK_CUR) != static_cast<off_t>(kBytes))
            fail("not all, or another position", next);
        ::close(fd);
    }
}

// The same with a stream.
void one_stream() {
    ::close(make_file(path, 0));
    for (const double end = now() + seconds; now() < end;) {
        FILE *const stream = std::fopen(path.c_str(), "r");
        std::atomic<std::size_t> all{0};
        const auto work = [&](std::size_t words) {
            for (;;) {
                const Memory memory;
                const std::size_t got = std::fread(memory.words(), 8, words, stream);
                if (got == 0)
                    return;
                const std::uint64_t first = (memory.words()[0] >> kVersionBits) - 1;
                for (std::size_t i = 0; i < got; ++i)
                    if (memory.words()[i] != word(first + i, 0))
                        fail("a part with a gap", first, i);
                all += got;
            }
        };
        std::thread other(work, 50'000);
        work(150'000);
        other.join();
        if (all != kWords || std::ftell(stream) != static_cast<long>(kBytes))
            fail("not all, or another position", all);
        std::fclose(stream);
    }
}

// Nobody changes anything but the broker (reads_test.py), which is stopped or killed.
void steady() {
    const int fd = make_file(path, 0);
    for (const double end = now() + seconds; now() < end;) {
        const Memory memory;
        ::lseek(fd, 0, SEEK_SET);
        if (::read(fd, memory.words(), kBytes) != static_cast<ssize_t>(kBytes) ||
            ::lseek(fd, 0, SEEK_CUR) != static_cast<off_t>(kBytes))
            fail("a short read");
        for (std::size_t i = 0; i < kWords; ++i)
            if (memory.words()[i] != word(i, 0))
                fail("a wrong word", i, memory.words()[i]);
    }
    ::close(fd);
}

struct What {
    std::string_view name;
    void (*run)();
};
constexpr std::array<What, 6> kWhat = {{{"writer", writer},
                                        {"truncation", truncation},
                                        {"renaming", renaming},
                                        {"one-descriptor", one_descriptor},
                                        {"one-stream", one_stream},
                                        {"steady", steady}}};

} // namespace

int main(int argc, char **argv) {
    const auto *const what = std::find_if(kWhat.begin(), kWhat.end(), [&](const What &candidate) {
        return argc == 4 && candidate.name == argv[1];
    });
    if (what == kWhat.end()) {
        (void)std::fputs("usage: upm-hook-read-races WHAT FOLDER SECONDS\n", stderr);
        return 2;
    }
    path = std::string(argv[2]) + "/races";
    seconds = std::strtod(argv[3], nullptr);
    const auto report =
        reinterpret_cast<decltype(&upm_hook_report)>(::dlsym(RTLD_DEFAULT, "upm_hook_report"));
    if (report != nullptr) { // the thread that finds the broker starts with the first block
        const Memory memory;
        ::usleep(300'000);
    }
    what->run();
    upm_hook_stats stats{};
    if (report != nullptr && report(&stats) == 0)
        (void)std::fprintf(stderr, "shared %" PRIu64 " made %" PRIu64 "\n", stats.loaded_shared,
                           stats.loaded_made);
    return 0;
}
