// SPDX-License-Identifier: MIT
//
// Reads files in every way that the hook serves or leaves alone, and says what came: a
// checksum, what the call returned, errno, and where file and stream are afterwards. What
// it says must not depend on the hook. Used by reads_test.py.
//
//     upm-hook-reads FOLDER [ROUNDS]     files are made there; default: one round
//
// Says on standard error how many bytes came to share, if the hook is there.
#include "tests/preload/free_later.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cinttypes>
#include <climits>
#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cwchar>
#include <dlfcn.h>
#include <fcntl.h>
#include <fstream>
#include <malloc.h>
#include <stdio_ext.h>
#include <string>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#include <upm/hook.h>
#include <vector>

// The variants of fortified programs.
extern "C" {
// NOLINTBEGIN(bugprone-reserved-identifier,readability-identifier-naming)
ssize_t __read_chk(int fd, void *buffer, std::size_t len, std::size_t room);
ssize_t __pread_chk(int fd, void *buffer, std::size_t len, off_t offset, std::size_t room);
ssize_t __pread64_chk(int fd, void *buffer, std::size_t len, off_t offset, std::size_t room);
std::size_t __fread_chk(void *buffer, std::size_t room, std::size_t size, std::size_t count,
                        FILE *stream);
std::size_t __fread_unlocked_chk(void *buffer, std::size_t room, std::size_t size,
                                 std::size_t count, FILE *stream);
// NOLINTEND(bugprone-reserved-identifier,readability-identifier-naming)
}

namespace {

constexpr std::size_t kSize = (3UL << 20) + 777;
constexpr std::size_t kBig = 5UL << 19; // of most reads
constexpr std::size_t kPage = 4096;

std::string folder;
std::string path;

// --- what is said ---

std::uint64_t checksum(const void *data, std::size_t len) {
    std::uint64_t sum = 0xcbf29ce484222325;
    const auto *const bytes = static_cast<const unsigned char *>(data);
    for (std::size_t i = 0; i < len; ++i)
        sum = (sum ^ bytes[i]) * 0x100000001b3;
    return sum;
}

[[gnu::format(printf, 1, 2)]] void say(const char *format, ...) {
    std::va_list arguments;
    va_start(arguments, format);
    std::vprintf(format, arguments);
    va_end(arguments);
    std::putchar('\n');
}

// A block that the hook takes on; some bytes in front of the data are for odd places.
class Memory {
  public:
    explicit Memory(std::size_t size, std::size_t shift = 0) : shift_(shift) {
        void *block = nullptr;
        if (::posix_memalign(&block, kPage, size + shift) != 0)
            std::abort();
        block_ = static_cast<char *>(block);
    }
    Memory(const Memory &) = delete;
    Memory &operator=(const Memory &) = delete;
    ~Memory() { free_later(block_); }
    [[nodiscard]] char *data() const { return block_ + shift_; }

  private:
    char *block_ = nullptr;
    std::size_t shift_;
};

void say_read(const char *what, int fd, const char *data, ssize_t got, int error) {
    say("%s: %zd, errno %d, sum %016" PRIx64 ", at %ld", what, got, got < 0 ? error : 0,
        checksum(data, got > 0 ? static_cast<std::size_t>(got) : 0),
        static_cast<long>(::lseek(fd, 0, SEEK_CUR)));
}

int open_file() {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        std::abort();
    return fd;
}

template <class Call>
void one(const char *what, int fd, const char *data, Call call) {
    errno = 0;
    const ssize_t got = call();
    say_read(what, fd, data, got, errno);
}

// --- descriptors ---

void descriptors() {
    const int fd = open_file();
    const Memory memory(kSize);
    char *const at = memory.data();
    one("read", fd, at, [&] { return ::read(fd, at, kBig); });
    one("read to the end", fd, at, [&] { return ::read(fd, at, kBig); });
    one("read at the end", fd, at, [&] { return ::read(fd, at, kBig); });
    const Memory other(kSize);
    char *const to = other.data();
    one("pread", fd, to, [&] { return ::pread(fd, to, kBig, 0); });
    one("pread to the end", fd, to, [&] { return ::pread64(fd, to, kBig, kSize - 700'000); });
    one("pread behind", fd, to, [&] { return ::pread(fd, to, kBig, kSize + 5); });
    one("pread before", fd, to, [&] { return ::pread(fd, to, kBig, -5); });
    ::lseek(fd, 3, SEEK_SET);
    const Memory third(kSize);
    char *const here = third.data();
    one("read_chk", fd, here, [&] { return __read_chk(fd, here, kBig, kSize); });
    const Memory fourth(kSize);
    char *const there = fourth.data();
    one("pread_chk", fd, there, [&] { return __pread_chk(fd, there, kBig, 5, kSize); });
    one("pread64_chk", fd, there, [&] { return __pread64_chk(fd, there, kBig, 7, kSize); });
    ::close(fd);
}

// Offsets in the file and places in a page, as torch and others have them.
void odd_places() {
    const int fd = open_file();
    for (const std::size_t shift : {std::size_t{1}, std::size_t{64}, kPage - 112, kPage + 9})
        for (const off_t offset : {0, 1, 128, 4095, 70'001}) {
            const Memory memory(kSize, shift);
            char *const at = memory.data();
            std::memset(at - shift, 0x5a, shift);
            one("odd place", fd, at, [&] { return ::pread(fd, at, kBig, offset); });
            const auto *const before = at - shift;
            say("  lost before it: %d", static_cast<int>(static_cast<long>(shift) -
                                                         std::count(before, before + shift, 0x5a)));
        }
    ::close(fd);
}

void vectors() {
    const int fd = open_file();
    const Memory first(kSize);
    const Memory second(kSize);
    std::array<char, 50> small{};
    std::array<iovec, 3> parts{iovec{small.data(), 13}, iovec{first.data(), kBig},
                               iovec{second.data(), kBig}};
    const auto tell = [&](const char *what, ssize_t got, int error) {
        std::uint64_t sum = 0;
        std::size_t left = got > 0 ? static_cast<std::size_t>(got) : 0;
        for (const iovec &part : parts) { // what came, and nothing else
            const std::size_t came = std::min(left, part.iov_len);
            sum = sum * 31 + checksum(part.iov_base, came);
            left -= came;
        }
        say("%s: %zd, errno %d, sum %016" PRIx64 ", at %ld", what, got, got < 0 ? error : 0, sum,
            static_cast<long>(::lseek(fd, 0, SEEK_CUR)));
    };
    const auto count = static_cast<int>(parts.size());
    const auto each = [&](const char *what, auto call) {
        errno = 0;
        const ssize_t got = call();
        tell(what, got, errno);
    };
    errno = 0;
    const ssize_t got = ::readv(fd, parts.data(), count);
    tell("readv", got, errno);
    each("readv at the end", [&] { return ::readv(fd, parts.data(), count); });
    each("preadv", [&] { return ::preadv(fd, parts.data(), count, 3); });
    each("preadv64", [&] { return ::preadv64(fd, parts.data(), count, 4096); });
    ::lseek(fd, 17, SEEK_SET);
    each("preadv2 here", [&] { return ::preadv2(fd, parts.data(), count, -1, 0); });
    each("preadv2", [&] { return ::preadv2(fd, parts.data(), count, 4096, 0); });
    each("preadv64v2 nowait", [&] { return ::preadv64v2(fd, parts.data(), count, 0, 1 << 20); });
    each("preadv before", [&] { return ::preadv(fd, parts.data(), count, -1); });
    each("no parts", [&] { return ::readv(fd, parts.data(), 0); });
    each("less than no parts", [&] { return ::readv(fd, parts.data(), -1); });
    each("too many parts", [&] { return ::readv(fd, parts.data(), 1025); });
    // On the heap, at the end of a page behind which there is nothing.
    auto *const pages = static_cast<char *>(
        ::mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ::mprotect(pages + kPage, kPage, PROT_NONE);
    auto *const edge = reinterpret_cast<iovec *>(pages + kPage) - 1;
    *edge = {first.data(), kBig};
    parts = {*edge, iovec{}, iovec{}}; // what is told about
    each("a vector at an edge", [&] { return ::preadv(fd, edge, 1, 0); });
    each("a vector over an edge", [&] { return ::preadv(fd, edge, 2, 0); });
    each("no vector", [&] { return ::preadv(fd, edge + 1, 1, 0); });
    ::munmap(pages, 2 * kPage);
    parts = {iovec{small.data(), SIZE_MAX - 5}, iovec{first.data(), kBig}, iovec{}};
    each("a part without end", [&] { return ::preadv(fd, parts.data(), count, 0); });
    parts = {iovec{first.data(), kBig}, iovec{}, iovec{}};
    parts[1] = {reinterpret_cast<void *>(kPage), kBig}; // NOLINT: nothing is there
    each("a part that is not there", [&] { return ::preadv(fd, parts.data(), 2, 0); });
    parts[1] = {reinterpret_cast<void *>(UINTPTR_MAX - kPage), 8}; // NOLINT: the kernel's
    each("a part of the kernel", [&] { return ::preadv(fd, parts.data(), 2, 0); });
    ::close(fd);
}

// --- streams ---

void say_stream(const char *what, FILE *stream, const char *data, std::size_t items,
                std::size_t size, int error) {
    const long before = ::lseek(::fileno(stream), 0, SEEK_CUR);
    say("%s: %zu items, errno %d, sum %016" PRIx64 ", stream at %ld, file at %ld, end %d, error %d",
        what, items, items == 0 ? error : 0, checksum(data, items * size), std::ftell(stream),
        before, std::feof(stream), std::ferror(stream));
}

using Prepare = void (*)(FILE *stream);

// A stream that was prepared somehow, a large read, then small ones, backwards and forwards.
void stream(const char *what, const char *mode, Prepare prepare) {
    FILE *const file = std::fopen(path.c_str(), mode);
    if (file == nullptr)
        std::abort();
    prepare(file);
    const Memory memory(kSize);
    char *const at = memory.data();
    errno = 0;
    std::size_t items = std::fread(at, 1000, kBig / 1000, file);
    say_stream(what, file, at, items, 1000, errno);
    say("  next %d", std::fgetc(file));
    const int back = std::ungetc('!', file);
    const int first = std::fgetc(file);
    say("  pushed back %d, then %d %d", back, first, std::fgetc(file));
    std::fseek(file, -5000, SEEK_CUR);
    const int before = std::fgetc(file);
    say("  5000 before %d at %ld", before, std::ftell(file));
    std::fpos_t place{};
    std::fgetpos(file, &place);
    const Memory other(kSize);
    char *const to = other.data();
    errno = 0;
    items = std::fread(to, 1, kSize, file);
    say_stream("  over the end", file, to, items, 1, errno);
    items = std::fread(to, 1, kBig, file);
    say_stream("  at the end", file, to, items, 1, errno);
    std::fsetpos(file, &place);
    const int again = std::fgetc(file);
    say("  back again %d at %ld end %d", again, std::ftell(file), std::feof(file));
    std::fseek(file, 100, SEEK_SET);
    const Memory third(kSize);
    items = fread_unlocked(third.data(), 3, kBig / 3, file);
    say_stream("  unlocked", file, third.data(), items, 3, errno);
    std::rewind(file);
    const Memory fourth(kSize);
    items = __fread_chk(fourth.data(), kSize, 1, kBig + 5, file);
    say_stream("  with room", file, fourth.data(), items, 1, errno);
    items = __fread_unlocked_chk(fourth.data(), kSize, 8, kBig / 8, file);
    say_stream("  with room, unlocked", file, fourth.data(), items, 8, errno);
    std::fclose(file);
}

constexpr std::size_t kRoom = 1UL << 20;
char room[kRoom]; // for setvbuf

void streams() {
    stream("fresh stream", "r", [](FILE * /*file*/) {});
    stream("closed on exec", "rce", [](FILE * /*file*/) {});
    stream("mapped stream", "rm", [](FILE * /*file*/) {});
    stream("some bytes taken", "r", [](FILE *file) {
        for (int i = 0; i < 5; ++i)
            (void)std::fgetc(file);
    });
    stream("a byte given back", "r", [](FILE *file) { std::ungetc(std::fgetc(file), file); });
    stream("another byte given back", "r", [](FILE *file) {
        (void)std::fgetc(file);
        std::ungetc('x', file);
        std::ungetc('y', file);
    });
    stream("a byte given back at first", "r", [](FILE *file) { std::ungetc('z', file); });
    stream("without a buffer", "r", [](FILE *file) { std::setvbuf(file, nullptr, _IONBF, 0); });
    stream("a buffer of 64 bytes", "r", [](FILE *file) { std::setvbuf(file, room, _IOFBF, 64); });
    stream("a buffer of 1 MiB", "r", [](FILE *file) { std::setvbuf(file, room, _IOFBF, kRoom); });
    stream("line by line", "r", [](FILE *file) { std::setvbuf(file, nullptr, _IOLBF, 0); });
    stream("narrow", "r", [](FILE *file) { std::fwide(file, -1); });
    stream("own locks", "r", [](FILE *file) { ::__fsetlocking(file, FSETLOCKING_BYCALLER); });
    stream("further on", "r", [](FILE *file) { std::fseek(file, 12'345, SEEK_SET); });
    stream("read and flushed", "r", [](FILE *file) {
        (void)std::fgetc(file);
        std::fflush(file);
    });
    stream("moved below it", "r", [](FILE *file) { ::lseek(::fileno(file), 8192, SEEK_SET); });
    stream("for both", "r+", [](FILE *file) {
        std::fputc(std::fgetc(file), file); // without a seek in between, as is not allowed
        std::fseek(file, 4, SEEK_SET);
    });
    stream("for writing", "a", [](FILE * /*file*/) {});
    stream("its file is closed", "r", [](FILE *file) { ::close(::fileno(file)); });
}

ssize_t give(void *cookie, char *buffer, std::size_t len) {
    auto &left = *static_cast<std::size_t *>(cookie);
    len = std::min(len, left);
    std::memset(buffer, static_cast<int>(left % 251), len);
    left -= len;
    return static_cast<ssize_t>(len);
}

void say_large(const char *what, char *at, FILE *stream) {
    const std::size_t got = std::fread(at, 1, kBig, stream);
    say("%s %zu %016" PRIx64, what, got, checksum(at, got));
}

void odd_streams() {
    const Memory memory(kSize);
    char *const at = memory.data();
    std::vector<char> bytes(kSize, 'm');
    FILE *file = ::fmemopen(bytes.data(), bytes.size(), "r");
    say_large("fmemopen", at, file);
    std::fclose(file);
    std::size_t left = kSize;
    file = ::fopencookie(&left, "r",
                         {.read = give, .write = nullptr, .seek = nullptr, .close = nullptr});
    say_large("fopencookie", at, file);
    std::fclose(file);
    file = std::fopen(path.c_str(), "r");
    std::fwide(file, 1);
    say_large("wide", at, file);
    std::fclose(file);
    file = ::popen(("cat " + path).c_str(), "r"); // NOLINT(cert-env33-c): our own file
    say_large("popen", at, file);
    ::pclose(file);
    if (std::freopen(path.c_str(), "r", stdin) == nullptr)
        std::abort();
    const Memory other(kSize);
    const std::size_t items = std::fread(other.data(), 1, kBig, stdin);
    say_stream("stdin", stdin, other.data(), items, 1, errno);
    std::ifstream input(path, std::ios::binary);
    const Memory third(kSize);
    input.get();
    input.read(third.data(), kBig);
    const auto came = static_cast<std::size_t>(input.gcount());
    say("ifstream %zu %016" PRIx64 " at %ld", came, checksum(third.data(), came),
        static_cast<long>(input.tellg()));
}

// --- what is no regular file, and what no read can do ---

void kinds() {
    const Memory memory(kSize);
    char *const at = memory.data();
    const auto open_and_read = [&](const char *what, int flags) {
        const int fd = ::open(what, flags | O_CLOEXEC);
        one(what, fd, at, [&] { return ::read(fd, at, 1 << 20); });
        ::close(fd);
    };
    open_and_read("/dev/zero", O_RDONLY);
    open_and_read("/dev/null", O_RDONLY);
    open_and_read("/proc/version", O_RDONLY);
    open_and_read("/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY);
    open_and_read("/", O_RDONLY | O_DIRECTORY);
    open_and_read("/no/such/file", O_RDONLY);
    int ends[2];
    if (::pipe(ends) != 0)
        std::abort();
    (void)!::write(ends[1], "pipe", 4);
    one("pipe", ends[0], at, [&] { return ::read(ends[0], at, kBig); });
    ::close(ends[1]);
    one("pipe at its end", ends[0], at, [&] { return ::read(ends[0], at, kBig); });
    ::close(ends[0]);
    int fd = ::open(path.c_str(), O_WRONLY | O_CLOEXEC);
    one("not for reading", fd, at, [&] { return ::read(fd, at, kBig); });
    ::close(fd);
    fd = ::open(path.c_str(), O_PATH | O_CLOEXEC);
    one("only a path", fd, at, [&] { return ::read(fd, at, kBig); });
    ::close(fd);
    fd = ::open(path.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (fd >= 0)
        one("direct", fd, at, [&] { return ::pread(fd, at, 1 << 20, 0); });
    ::close(fd);
    fd = open_file();
    // NOLINTNEXTLINE(performance-no-int-to-ptr): nothing is there
    one("no memory", fd, at, [&] { return ::read(fd, reinterpret_cast<void *>(kPage), kBig); });
    one("too much", fd, at, [&] { return ::read(fd, at, SIZE_MAX); });
    one("behind the block", fd, at, [&] { return ::read(fd, at, kSize / 2); });
    ::close(fd);
}

void sparse() {
    const std::string name = folder + "/sparse";
    const int fd = ::open(name.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    for (off_t at = 0; at < static_cast<off_t>(kSize); at += 1 << 19)
        (void)!::pwrite(fd, "data", 4, at + 70'000);
    if (::ftruncate(fd, kSize) != 0)
        std::abort();
    const Memory memory(kSize);
    one("sparse", fd, memory.data(), [&] { return ::pread(fd, memory.data(), kSize, 0); });
    if (::ftruncate(fd, 16 << 20) != 0)
        std::abort();
    const Memory other(16 << 20);
    one("a large hole", fd, other.data(), [&] { return ::pread(fd, other.data(), 16 << 20, 0); });
    ::close(fd);
}

// --- destinations that are not as they were ---

void destinations() {
    const int fd = open_file();
    const auto each = [&](const char *what, auto prepare) {
        const Memory memory(kSize);
        char *const at = memory.data();
        prepare(at);
        one(what, fd, at, [&] { return ::pread(fd, at, kBig, 0); });
        ::munlock(at, kBig);
        ::mprotect(at, kBig, PROT_READ | PROT_WRITE);
    };
    each("some pages are there", [](char *at) {
        for (std::size_t i = 0; i < kBig; i += 7 * kPage)
            at[i] = 'x';
    });
    each("locked", [](char *at) { ::mlock(at, 1 << 16); });
    each("locked in the middle", [](char *at) { ::mlock(at + (1 << 20), 1 << 16); });
    each("read-only", [](char *at) { ::mprotect(at, kBig, PROT_READ); });
    each("read-only in the middle", [](char *at) { ::mprotect(at + (1 << 20), kPage, PROT_READ); });
    each("a hole", [](char *at) { ::munmap(at + (1 << 20), kPage); });
    each("huge pages wished", [](char *at) { ::madvise(at, kBig, MADV_HUGEPAGE); });
    each("for no child", [](char *at) { ::madvise(at, kBig, MADV_DONTFORK); });
    each("wiped in a child", [](char *at) { ::madvise(at, kBig, MADV_WIPEONFORK); });
    ::close(fd);
}

// What a pipe holds of the memory (vmsplice) sees a later read, as it does without the hook.
void pinned() {
    const int fd = open_file();
    const Memory memory(kSize);
    char *const at = memory.data();
    std::memset(at, 'p', kPage);
    int ends[2];
    if (::pipe(ends) != 0)
        std::abort();
    const iovec page{at, kPage};
    const ssize_t given = ::vmsplice(ends[1], &page, 1, 0);
    one("pinned", fd, at, [&] { return ::pread(fd, at, kBig, 0); });
    std::array<char, kPage> seen{};
    const ssize_t taken = ::read(ends[0], seen.data(), seen.size());
    say("  pipe: %zd %zd %016" PRIx64, given, taken, checksum(seen.data(), seen.size()));
    ::close(ends[0]);
    ::close(ends[1]);
    ::close(fd);
}

// --- memory that was read into ---

void later() {
    const int fd = open_file();
    const Memory memory(kSize);
    char *const at = memory.data();
    one("before", fd, at, [&] { return ::pread(fd, at, kBig, 0); });
    std::memset(at + (1 << 20), 'w', 1 << 16);
    const Memory other(kSize);
    one("the file after a write to memory", fd, other.data(),
        [&] { return ::pread(fd, other.data(), kBig, 0); });
    const pid_t child = ::fork();
    if (child == 0) {
        std::memset(at, 'c', kBig);
        ::_exit(0);
    }
    int status = -1;
    ::waitpid(child, &status, 0);
    say("after a child's write: %d %016" PRIx64, status, checksum(at, kBig));
    ::madvise(at, 1 << 19, MADV_DONTNEED);
    say("after MADV_DONTNEED: %016" PRIx64, checksum(at, kBig));
    one("once more", fd, at, [&] { return ::pread(fd, at, kBig, 0); });
    ::close(fd);
}

void on_alarm(int /*number*/) {}

// Signals without SA_RESTART, every millisecond.
void interrupted() {
    struct sigaction action {};
    action.sa_handler = on_alarm;
    ::sigaction(SIGALRM, &action, nullptr);
    const itimerval often{.it_interval = {0, 1000}, .it_value = {0, 1000}};
    ::setitimer(ITIMER_REAL, &often, nullptr);
    for (int i = 0; i < 5; ++i) {
        const int fd = open_file();
        const Memory memory(kSize);
        one("interrupted", fd, memory.data(), [&] { return ::read(fd, memory.data(), kBig); });
        ::close(fd);
    }
    const itimerval never{};
    ::setitimer(ITIMER_REAL, &never, nullptr);
}

void make_file() {
    path = folder + "/file";
    FILE *const file = std::fopen(path.c_str(), "w");
    if (file == nullptr)
        std::abort();
    std::uint32_t state = 12'345;
    std::vector<unsigned char> bytes(kSize);
    for (unsigned char &byte : bytes) {
        state = state * 1'664'525U + 1'013'904'223U;
        byte = static_cast<unsigned char>(state >> 24U);
    }
    if (std::fwrite(bytes.data(), 1, kSize, file) != kSize || std::fclose(file) != 0)
        std::abort();
}

void round() {
    descriptors();
    odd_places();
    vectors();
    streams();
    odd_streams();
    kinds();
    sparse();
    destinations();
    pinned();
    later();
    interrupted();
}

// The thread that finds the broker starts with the first large block.
void wait_for_hook() {
    const Memory memory(kSize);
    ::usleep(300'000);
}

} // namespace

int main(int argc, char **argv) {
    if (argc < 2) {
        (void)std::fputs("usage: upm-hook-reads FOLDER [ROUNDS]\n", stderr);
        return 2;
    }
    folder = argv[1];
    ::mallopt(M_MMAP_THRESHOLD, 1 << 19); // mappings of their own without the hook, too
    make_file();
    const auto report =
        reinterpret_cast<decltype(&upm_hook_report)>(::dlsym(RTLD_DEFAULT, "upm_hook_report"));
    if (report != nullptr)
        wait_for_hook();
    const long rounds = argc > 2 ? std::strtol(argv[2], nullptr, 10) : 1;
    for (long i = 0; i < rounds; ++i)
        round();
    upm_hook_stats stats{};
    if (report != nullptr && report(&stats) == 0)
        (void)std::fprintf(stderr, "shared %" PRIu64 " made %" PRIu64 "\n", stats.loaded_shared,
                           stats.loaded_made);
    return 0;
}
