// SPDX-License-Identifier: MIT
//
// What few programs do to memory that was loaded while it was read.
#include "tests/preload/odd.hpp"
#include "tests/preload/rests.hpp"

#include <array>
#include <atomic>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <fstream>
#include <linux/io_uring.h>
#include <string>
#include <string_view>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <thread>

namespace odd {

namespace {

bool is_zero(const char *memory, std::size_t size) {
    for (std::size_t i = 0; i < size; ++i)
        if (memory[i] != 0)
            return false;
    return true;
}

} // namespace

// Another thread makes it read-only while it is being read into, and so it stays.
int protect_meanwhile() {
    std::uint64_t loaded = 0;
    for (int round = 0; round < 60; ++round) {
        free_later(load());
        char *const block = allocate(kBlock);
        const std::uint64_t before = bytes_loaded();
        std::thread other([&] {
            std::this_thread::sleep_for(std::chrono::microseconds(50 * round));
            UPM_CHECK(::mprotect(block, kBlock, PROT_READ) == 0);
        });
        const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
        (void)!::pread(fd, block, kBlock, 0); // all of it, or a part
        (void)::close(fd);
        other.join();
        loaded += bytes_loaded() - before;
        FILE *const maps = std::fopen("/proc/self/maps", "re");
        UPM_CHECK(maps != nullptr);
        char line[512];
        while (std::fgets(line, sizeof(line), maps) != nullptr) {
            unsigned long start = 0;
            unsigned long end = 0;
            char writable = '?';
            UPM_CHECK(std::sscanf(line, "%lx-%lx %*c%c", &start, &end, &writable) == 3);
            const auto at = reinterpret_cast<std::uintptr_t>(block);
            UPM_CHECK(end <= at || start >= at + kBlock || writable == '-');
        }
        (void)std::fclose(maps);
        UPM_CHECK(::mprotect(block, kBlock, PROT_READ | PROT_WRITE) == 0);
        std::free(block);
    }
    return loaded != 0 ? 0 : kNothingTried;
}

// A program with as many mappings as it may have still gets zeros for what it drops.
int no_more_mappings() {
    char *const block = load();
    constexpr std::size_t kMost = 200'000;
    void *const room = ::mmap(nullptr, kMost * kPage, PROT_NONE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    UPM_CHECK(room != MAP_FAILED);
    std::size_t page = 1;
    while (page < kMost &&
           ::mprotect(static_cast<char *>(room) + page * kPage, kPage, PROT_READ) == 0)
        page += 2;
    if (page >= kMost)
        return kNothingTried;
    errno = 0;
    UPM_CHECK(::madvise(block + kMib, kMib, MADV_DONTNEED) == 0 && errno == 0);
    UPM_CHECK(is_zero(block + kMib, kMib));
    UPM_CHECK(!is_zero(block, kMib));
    return 0;
}

// By another name, mprotect.
int key() {
    free_later(load());
    char *const block = allocate(kBlock);
    if (::pkey_mprotect(block, kBlock, PROT_READ, -1) != 0)
        return kNothingTried;
    const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
    UPM_CHECK(fd >= 0);
    UPM_CHECK(::read(fd, block, kBlock) == -1 && errno == EFAULT);
    UPM_CHECK(::lseek(fd, 0, SEEK_CUR) == 0);
    UPM_CHECK(in_child([&] {
                  *block = 1;
                  return 0;
              }) != 0);
    return 0;
}

// What lies behind a guard is gone (Linux 6.13).
int guard() {
    constexpr int kInstall = 102;
    constexpr int kRemove = 103;
    char *const block = load();
    if (::madvise(block + kMib, kMib, kInstall) != 0)
        return kNothingTried;
    UPM_CHECK(::madvise(block + kMib, kMib, kRemove) == 0);
    UPM_CHECK(is_zero(block + kMib, kMib));
    UPM_CHECK(!is_zero(block, kMib));
    return 0;
}

// Some advice is refused for mappings of files, and for anonymous memory in another way.
int holes() {
    for (const bool wipe : {false, true}) {
        char *const block = load();
        UPM_CHECK(::munmap(block + 2 * kMib, kMib) == 0);
        const int advice = wipe ? MADV_WIPEONFORK : MADV_REMOVE;
        UPM_CHECK(::madvise(block, kBlock, advice) == -1);
        // The first of all errors, but holes come last.
        UPM_CHECK(errno == (wipe ? ENOMEM : EINVAL));
        UPM_CHECK(!is_zero(block, kMib) && !is_zero(block + 3 * kMib, kMib));
        UPM_CHECK(in_child([&] {
                      return is_zero(block, kMib) == wipe && is_zero(block + 3 * kMib, kMib) == wipe
                                 ? 0
                                 : 1;
                  }) == 0);
    }
    return 0;
}

// By another name, madvise, which a process may use on itself since Linux 6.13.
int process_advice() {
    constexpr int kSelf = -10001;    // PIDFD_SELF_THREAD_GROUP, where the kernel knows it
    constexpr long kPidfdOpen = 434; // not in older headers
    const auto descriptor = static_cast<int>(::syscall(kPidfdOpen, ::getpid(), 0));
    char *const block = load();
    block[kMib] = 1; // this page is the program's own, where a segment is mapped
    const std::array<iovec, 2> parts = {{{.iov_base = block + kMib, .iov_len = kMib},
                                         {.iov_base = block + 3 * kMib, .iov_len = kMib}}};
    for (const int self : {descriptor, kSelf}) {
        using Advise = ssize_t (*)(int, const iovec *, std::size_t, int, unsigned);
        const auto advise = reinterpret_cast<Advise>(::dlsym(RTLD_DEFAULT, "process_madvise"));
        if (advise == nullptr || advise(self, parts.data(), parts.size(), MADV_DONTNEED, 0) == -1)
            continue;
        UPM_CHECK(is_zero(block + kMib, kMib) && is_zero(block + 3 * kMib, kMib));
        UPM_CHECK(!is_zero(block, kMib) && !is_zero(block + 2 * kMib, kMib));
        return 0;
    }
    return kNothingTried;
}

// What is locked is not dropped, what lies before it is.
int locked() {
    char *const block = load();
    if (::mlock(block + kMib, kPage) != 0)
        return kNothingTried;
    for (const int advice : {MADV_DONTNEED, MADV_FREE}) {
        UPM_CHECK(::madvise(block, 2 * kMib, advice) == -1 && errno == EINVAL);
        UPM_CHECK(advice == MADV_FREE || is_zero(block, kMib));
        UPM_CHECK(!is_zero(block + kMib, kPage) && !is_zero(block + kMib + kPage, kPage));
    }
    UPM_CHECK(::munlock(block + kMib, kPage) == 0);
    UPM_CHECK(::madvise(block, 2 * kMib, MADV_DONTNEED) == 0 && is_zero(block, 2 * kMib));
    return 0;
}

// What is read into a segment that took the place of a block is there for all who have it.
int attach() {
    constexpr std::size_t kSize = kBlock - kPage;
    free_later(load());
    char *const block = allocate(kBlock);
    const int id = ::shmget(IPC_PRIVATE, kSize, IPC_CREAT | S_IRUSR | S_IWUSR);
    char *const whole = block + kPage - reinterpret_cast<std::uintptr_t>(block) % kPage;
    if (id < 0 || ::shmat(id, whole, SHM_REMAP) != whole)
        return kNothingTried;
    auto *const other = static_cast<char *>(::shmat(id, nullptr, 0));
    UPM_CHECK(::shmctl(id, IPC_RMID, nullptr) == 0);
    read_into(whole, kSize);
    UPM_CHECK(!is_zero(other, kPage) && std::memcmp(whole, other, kSize) == 0);
    return 0;
}

// Of a block in which other memory lies by now, the rest is still one that was loaded.
int cut() {
    constexpr std::size_t kPart = 256 * kKib;
    constexpr int kPrivate = MAP_PRIVATE | MAP_ANONYMOUS;
    constexpr int kProtection = PROT_READ | PROT_WRITE;
    for (const std::string_view how : {"fixed", "hole", "moved"}) {
        char *const block = load();
        char *const whole = block + kPage - reinterpret_cast<std::uintptr_t>(block) % kPage;
        char *const middle = whole + 2 * kMib;
        char *const rest = middle + 2 * kPart;
        void *there = MAP_FAILED;
        if (how == "fixed") {
            there = ::mmap(middle, kPart, kProtection, kPrivate | MAP_FIXED, -1, 0);
        } else if (how == "hole") {
            UPM_CHECK(::munmap(middle, kPart) == 0);
            there = ::mmap(middle, kPart, kProtection, kPrivate, -1, 0);
        } else {
            void *const other = ::mmap(nullptr, kPart, kProtection, kPrivate, -1, 0);
            there = ::mremap(other, kPart, kPart, MREMAP_MAYMOVE | MREMAP_FIXED, middle);
        }
        UPM_CHECK(there == middle && is_zero(middle, kPart));
        UPM_CHECK(::madvise(rest, kPart, MADV_DONTNEED) == 0);
        UPM_CHECK(is_zero(rest, kPart));
        UPM_CHECK(!is_zero(rest + kPart, kPage));
    }
    return 0;
}

namespace {

// As limits count them, in bytes: a field of /proc/PID/statm.
std::size_t bytes_of_field(int field) {
    std::ifstream file("/proc/self/statm");
    std::size_t pages = 0;
    for (int i = 0; i <= field; ++i)
        file >> pages;
    UPM_CHECK(file.good());
    return pages * kPage;
}

std::size_t address_space() {
    return bytes_of_field(0);
}

std::size_t data() {
    return bytes_of_field(5);
}

} // namespace

// What was freed is there for whatever the program wants next.
int limit() {
    constexpr std::size_t kRoom = 100 * kMib;
    for (const bool late : {false, true}) {
        const rlimit limit{.rlim_cur = address_space() + kRoom, .rlim_max = RLIM_INFINITY};
        const rlimit none{.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};
        if (!late)
            UPM_CHECK(::setrlimit(RLIMIT_AS, &limit) == 0);
        for (int round = 0; round < 3; ++round) {
            char *const one = allocate(30 * kMib);
            char *const other = allocate(30 * kMib);
            std::free(one);
            std::free(other);
            UPM_CHECK(::setrlimit(RLIMIT_AS, &limit) == 0);
            void *const map = ::mmap(nullptr, 80 * kMib, PROT_READ | PROT_WRITE,
                                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            UPM_CHECK(map != MAP_FAILED);
            UPM_CHECK(::munmap(map, 80 * kMib) == 0);
            std::free(allocate(80 * kMib));
        }
        UPM_CHECK(::setrlimit(RLIMIT_AS, &none) == 0);
    }
    return 0;
}

// What fits into a program's limits without the hook fits with it: what is mapped for the time of
// a read is in nobody's way.
int tight() {
    std::free(load());
    constexpr std::size_t kMore = kMib; // for what the hook keeps of a block
    for (std::size_t room = kBlock + kMore; room <= kBlock + 40 * kMib; room += 2 * kMib) {
        for (const auto kind : {RLIMIT_AS, RLIMIT_DATA})
            UPM_CHECK(in_child([&] {
                          const std::size_t now = kind == RLIMIT_AS ? address_space() : data();
                          const rlimit limit{.rlim_cur = now + room, .rlim_max = now + room};
                          UPM_CHECK(::setrlimit(kind, &limit) == 0);
                          read_into(allocate(kBlock));
                          return 0;
                      }) == 0);
    }
    constexpr int kThreads = 3;
    constexpr std::size_t kStacks = 40 * kMib;
    const std::size_t most = address_space() + kThreads * (kBlock + kMore) + kStacks;
    const rlimit limit{.rlim_cur = most, .rlim_max = RLIM_INFINITY};
    UPM_CHECK(::setrlimit(RLIMIT_AS, &limit) == 0);
    std::array<std::thread, kThreads> threads;
    for (std::thread &thread : threads)
        thread = std::thread([] {
            for (int round = 0; round < 50; ++round) {
                char *const block = allocate(kBlock);
                read_into(block);
                std::free(block);
            }
        });
    for (std::thread &thread : threads)
        thread.join();
    return 0;
}

namespace {

// Mappings that only keep a place, as the rest of an arena of glibc's is.
int large_places() {
    constexpr std::size_t kLarge = 32 * kMib;
    int count = 0;
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
        std::uint64_t start = 0;
        std::uint64_t end = 0;
        char protection[5] = "";
        UPM_CHECK(std::sscanf(line.c_str(), "%" SCNx64 "-%" SCNx64 " %4s", &start, &end,
                              protection) == 3);
        count += end - start >= kLarge && std::strcmp(protection, "---p") == 0 ? 1 : 0;
    }
    return count;
}

} // namespace

// In a program with threads, the hook's reads more of procfs. It takes no arena of glibc's for
// that, which has 64 MiB of the address space.
int arenas() {
    const auto wait = [](void *) -> void * {
        for (;;)
            ::pause();
    };
    pthread_t thread{};
    for (int i = 0; i < 2; ++i)
        UPM_CHECK(::pthread_create(&thread, nullptr, wait, nullptr) == 0);
    const int before = large_places();
    std::free(load());
    for (int i = 0; i < 100 && !hook_rests(); ++i)
        sleep_ms(100);
    UPM_CHECK(large_places() == before);
    return 0;
}

namespace {

// Of its stack, as far down as it was written to.
std::size_t stack_of(void *(*run)(void *)) {
    constexpr unsigned char kUntouched = 0x5a;
    constexpr std::size_t kStack = 128 * kKib;
    char *const stack = static_cast<char *>(std::aligned_alloc(kPage, kStack));
    UPM_CHECK(stack != nullptr);
    std::memset(stack, kUntouched, kStack);
    pthread_attr_t attributes;
    pthread_t thread{};
    UPM_CHECK(::pthread_attr_init(&attributes) == 0);
    UPM_CHECK(::pthread_attr_setstack(&attributes, stack, kStack) == 0);
    UPM_CHECK(::pthread_create(&thread, &attributes, run, nullptr) == 0);
    UPM_CHECK(::pthread_join(thread, nullptr) == 0);
    std::size_t left = 0;
    while (static_cast<unsigned char>(stack[left]) == kUntouched)
        ++left;
    std::free(stack);
    return kStack - left;
}

char *to_be_read_into = nullptr;
char *to_be_changed = nullptr;

} // namespace

// Threads that read may have little: PTHREAD_STACK_MIN is 16 KiB.
int stacks() {
    constexpr std::size_t kMost = 8 * kKib + kKib / 2;
    std::free(load());
    to_be_read_into = allocate(kBlock);
    const std::size_t plain = stack_of([](void *) -> void * {
        read_into(to_be_read_into, kPage);
        return nullptr;
    });
    const std::uint64_t before = bytes_loaded();
    const std::size_t shared = stack_of([](void *) -> void * {
        read_into(to_be_read_into);
        return nullptr;
    });
    if (bytes_loaded() == before)
        return kNothingTried;
    UPM_CHECK(shared < plain + kMost);
    to_be_changed = load();
    UPM_CHECK(stack_of([](void *) -> void * {
                  UPM_CHECK(::madvise(to_be_changed, kBlock, MADV_DONTFORK) == 0);
                  return nullptr;
              }) < plain + kMost);
    to_be_changed = load();
    UPM_CHECK(stack_of([](void *) -> void * {
                  UPM_CHECK(::mremap(to_be_changed, kBlock, 2 * kBlock, MREMAP_MAYMOVE) !=
                            MAP_FAILED);
                  return nullptr;
              }) < plain + kMost);
    return 0;
}

// What a ring writes to by the buffers that it has pinned stays there, whatever advice is given.
int pinned() {
    constexpr unsigned kEntries = 4;
    char *const block = load();
    io_uring_params parameters{};
    const auto ring = static_cast<int>(::syscall(SYS_io_uring_setup, kEntries, &parameters));
    if (ring < 0)
        return kNothingTried;
    const iovec buffer{.iov_base = block, .iov_len = kPage};
    if (::syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &buffer, 1) != 0)
        return kNothingTried;
    constexpr int kProtection = PROT_READ | PROT_WRITE;
    const auto map = [&](std::uint64_t what, std::size_t size) {
        void *const memory =
            ::mmap(nullptr, size, kProtection, MAP_SHARED, ring, static_cast<off_t>(what));
        UPM_CHECK(memory != MAP_FAILED);
        return static_cast<char *>(memory);
    };
    char *const queue = map(IORING_OFF_SQ_RING, kPage);
    auto *const entry = reinterpret_cast<io_uring_sqe *>(map(IORING_OFF_SQES, kPage));
    UPM_CHECK(::madvise(block, kBlock, MADV_DONTFORK) == 0);
    std::array<int, 2> ends{};
    UPM_CHECK(::pipe2(ends.data(), O_CLOEXEC) == 0);
    const std::string text(kPage, 'x');
    UPM_CHECK(::write(ends[1], text.data(), kPage) == kPage);
    *entry = {};
    entry->opcode = IORING_OP_READ_FIXED;
    entry->fd = ends[0];
    entry->addr = reinterpret_cast<std::uint64_t>(block);
    entry->len = kPage;
    *reinterpret_cast<unsigned *>(queue + parameters.sq_off.array) = 0;
    std::atomic_ref(*reinterpret_cast<unsigned *>(queue + parameters.sq_off.tail)) = 1;
    UPM_CHECK(::syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, nullptr, 0) == 1);
    UPM_CHECK(std::memcmp(block, text.data(), kPage) == 0);
    return 0;
}

} // namespace odd
