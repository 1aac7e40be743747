// SPDX-License-Identifier: MIT
//
// What few programs do to memory that was loaded while it was read, to themselves, and to the
// file. Exits 0 only if all was as without the hook, 4 if nothing came to share, so that nothing
// was tried. Used by odd_test.py, with the backend store.
//
//   upm-hook-odd WHAT FILE [ARGUMENT]     FILE: of 8 MiB and more
#include "tests/preload/check.hpp"

#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <set>
#include <string>
#include <string_view>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <upm/hook.h>

namespace {

constexpr std::size_t kMib = 1024 * kKib;
constexpr std::size_t kBlock = 8 * kMib;
constexpr int kNothingTried = 4;

const char *path = nullptr;

void sleep_ms(int ms) {
    std::this_thread::sleep_for(std::chrono::milliseconds(ms));
}

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

std::uint64_t bytes_loaded() {
    using Report = int (*)(upm_hook_stats *);
    const auto report = reinterpret_cast<Report>(::dlsym(RTLD_DEFAULT, "upm_hook_report"));
    upm_hook_stats stats{};
    if (report == nullptr || report(&stats) != 0)
        return 0;
    return stats.loaded_shared + stats.loaded_made;
}

char *allocate(std::size_t size) {
    void *const memory = std::malloc(size);
    UPM_CHECK(memory != nullptr);
    return static_cast<char *>(memory);
}

void read_into(char *block, std::size_t size = kBlock) {
    const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
    UPM_CHECK(fd >= 0);
    UPM_CHECK(::pread(fd, block, size, 0) == static_cast<ssize_t>(size));
    UPM_CHECK(::close(fd) == 0);
}

// A block whose content is shared. Ends the program if there is none to be had.
char *load() {
    constexpr int kTries = 200;
    for (int i = 0; i < kTries; ++i) {
        char *const block = allocate(kBlock);
        const std::uint64_t before = bytes_loaded();
        read_into(block);
        if (bytes_loaded() - before > kBlock / 2)
            return block;
        std::free(block);
        sleep_ms(20);
    }
    (void)std::fprintf(stderr, "nothing came to share\n");
    std::_Exit(kNothingTried);
}

bool is_zero(const char *memory, std::size_t size) {
    for (std::size_t i = 0; i < size; ++i)
        if (memory[i] != 0)
            return false;
    return true;
}

// Runs in a child, and returns what waitpid(2) says of it.
template <class Function>
int in_child(Function function) {
    const pid_t child = ::fork();
    UPM_CHECK(child >= 0);
    if (child == 0)
        ::_exit(function());
    int status = -1;
    UPM_CHECK(::waitpid(child, &status, 0) == child);
    return status;
}

// --- threads that are to be cancelled ---

// Calls that are no place to be cancelled at.
struct Call {
    const char *name;
    void (*make)(char *block);
};
constexpr Call kCalls[] = {
    {"free", [](char *block) { std::free(block); }},
    {"realloc", [](char *block) { std::free(std::realloc(block, 4 * kBlock)); }},
    {"munmap", [](char *block) { (void)::munmap(block + kMib, kMib); }},
    {"mprotect", [](char *block) { (void)::mprotect(block, kMib, PROT_READ); }},
    {"advice", [](char *block) { (void)::madvise(block, kMib, MADV_DONTNEED); }},
    {"advice to parts",
     [](char *block) {
         (void)::mprotect(block, kPage, PROT_READ);
         (void)::madvise(block, kMib, MADV_DONTNEED);
     }},
    {"no fork", [](char *block) { (void)::madvise(block, kMib, MADV_DONTFORK); }},
    {"mremap", [](char *block) { (void)::mremap(block, kBlock, kBlock + kMib, MREMAP_MAYMOVE); }},
};

// Calls at which a thread is cancelled, if it is to be: often the only ones of a loop.
int file_to_read() {
    static const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
    return fd;
}
iovec whole(char *block) {
    return {.iov_base = block, .iov_len = kBlock};
}
constexpr Call kReads[] = {
    {"read", [](char *block) { (void)!::read(file_to_read(), block, kBlock); }},
    {"pread", [](char *block) { (void)!::pread(file_to_read(), block, kBlock, 0); }},
    {"readv",
     [](char *block) {
         const iovec part = whole(block);
         (void)!::readv(file_to_read(), &part, 1);
     }},
    {"preadv",
     [](char *block) {
         const iovec part = whole(block);
         (void)!::preadv(file_to_read(), &part, 1, 0);
     }},
    {"fread",
     [](char *block) {
         FILE *const file = ::fdopen(file_to_read(), "r");
         (void)!std::fread(block, 1, kBlock, file);
     }},
};

struct Cancelled {
    const Call &call;
    char *block;
    std::atomic<int> step{0};
};

void *call_cancelled(void *argument) {
    auto &work = *static_cast<Cancelled *>(argument);
    int before = 0;
    (void)::pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    work.step = 1;
    while (work.step != 2)
        std::this_thread::yield();
    (void)::pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &before);
    work.call.make(work.block);
    work.step = 3;
    ::pthread_testcancel();
    return nullptr;
}

int cancel_at(const Call &call, char *block, bool in_it) {
    Cancelled work{.call = call, .block = block};
    pthread_t thread{};
    UPM_CHECK(::pthread_create(&thread, nullptr, call_cancelled, &work) == 0);
    while (work.step != 1)
        std::this_thread::yield();
    UPM_CHECK(::pthread_cancel(thread) == 0);
    work.step = 2;
    void *result = nullptr;
    UPM_CHECK(::pthread_join(thread, &result) == 0);
    UPM_CHECK(work.step == (in_it ? 2 : 3)); // 3: it got to the end of the call
    UPM_CHECK(result == PTHREAD_CANCELED);
    return 0;
}

// A child has no thread of the hook's, so that it does itself what that does otherwise.
int cancelled() {
    char *const block = load();
    for (const Call &call : kCalls)
        for (const bool fresh : {false, true}) {
            const int status =
                in_child([&] { return cancel_at(call, fresh ? load() : block, false); });
            if (status == kNothingTried << 8)
                return kNothingTried;
            if (status != 0)
                (void)std::fprintf(stderr, "%s: status %x\n", call.name, unsigned(status));
            UPM_CHECK(status == 0);
        }
    return 0;
}

int cancelled_in_reads() {
    std::free(load());
    for (const Call &call : kReads) {
        UPM_CHECK(in_child([&] {
                      std::free(load());
                      (void)file_to_read();
                      return cancel_at(call, allocate(kBlock), true);
                  }) == 0);
    }
    return 0;
}

// --- what is done to the memory ---

// Another thread makes it read-only while it is being read into, and so it stays.
int protect_meanwhile() {
    std::uint64_t loaded = 0;
    for (int round = 0; round < 60; ++round) {
        std::free(load());
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
    std::free(load());
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
    std::free(load());
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

// --- limits ---

std::size_t address_space() {
    long pages = 0;
    FILE *const file = std::fopen("/proc/self/statm", "re");
    UPM_CHECK(file != nullptr && std::fscanf(file, "%ld", &pages) == 1);
    (void)std::fclose(file);
    return static_cast<std::size_t>(pages) * kPage;
}

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

// --- the file ---

std::atomic<int> told{0};

// A lease says that nobody else has the file open: to open it once more would break it, and
// wait for the holder, which is this very process.
int lease() {
    std::free(load());
    (void)std::signal(SIGIO, [](int) { ++told; });
    const int fd = ::open(path, O_RDWR | O_CLOEXEC);
    UPM_CHECK(fd >= 0);
    bool leased = false;
    for (int i = 0; i < 500 && !leased; ++i) { // the broker closes the file soon
        leased = ::fcntl(fd, F_SETLEASE, F_WRLCK) == 0;
        if (!leased)
            sleep_ms(10);
    }
    if (!leased)
        return kNothingTried;
    // Another part, which is not known yet.
    char *const block = allocate(kBlock);
    UPM_CHECK(::pread(fd, block, kBlock, 1234) > 0);
    UPM_CHECK(told == 0);
    UPM_CHECK(::fcntl(fd, F_GETLEASE) == F_WRLCK);
    return 0;
}

// --- who it is ---

std::set<std::string> sockets() {
    std::set<std::string> found;
    DIR *const folder = ::opendir("/proc/self/fd");
    UPM_CHECK(folder != nullptr);
    while (const dirent *entry = ::readdir(folder)) {
        char link[64];
        const ssize_t got = ::readlinkat(::dirfd(folder), entry->d_name, link, sizeof(link) - 1);
        if (got > 0 && std::string_view(link, 7) == "socket:")
            found.emplace(link, static_cast<std::size_t>(got));
    }
    (void)::closedir(folder);
    return found;
}

// To the broker, what comes by a connection is of the user who made it.
int user(uid_t other) {
    std::free(load());
    const std::set<std::string> before = sockets();
    UPM_CHECK(!before.empty());
    UPM_CHECK(::seteuid(other) == 0);
    UPM_CHECK(::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0); // /proc/self is its own again
    std::free(load());
    const std::set<std::string> after = sockets();
    UPM_CHECK(!after.empty());
    bool some = false; // the hook's thread closes what it has when it looks
    for (const std::string &name : after)
        some = some || !before.contains(name);
    UPM_CHECK(some);
    return 0;
}

// --- its end ---

// Reads for long, when it is told to: a hole, in one call.
int read_long() {
    constexpr std::size_t kSize = 1024 * kMib;
    std::free(load());
    const int large = ::memfd_create("large", MFD_CLOEXEC);
    UPM_CHECK(large >= 0 && ::ftruncate(large, static_cast<off_t>(kSize)) == 0);
    (void)std::puts("ready");
    (void)std::fflush(stdout);
    (void)std::getchar();
    char *const block = allocate(kSize);
    UPM_CHECK(::read(large, block, kSize) == static_cast<ssize_t>(kSize));
    return 0;
}

// The first thread ends before others do, which go on for a while; or alone.
int leave(const char *how) {
    if (std::strchr(how, 'k') == nullptr && std::getenv("UPM_TEST_PLAIN") == nullptr)
        std::free(load());
    (void)allocate(kBlock); // and the hook's thread lives on
    if (std::strchr(how, 'w') != nullptr)
        std::thread([] { sleep_ms(500); }).detach();
    if (std::strchr(how, 'x') != nullptr)
        (void)::syscall(SYS_exit, 3);
    if (std::strchr(how, 'k') != nullptr)
        (void)::syscall(SYS_acct, 0); // forbidden
    ::pthread_exit(nullptr);
}

// --- programs that lock themselves in ---

template <std::size_t kCount>
void lock_in(std::array<sock_filter, kCount> filter, unsigned flags) {
    const sock_fprog program{.len = kCount, .filter = filter.data()};
    UPM_CHECK(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    UPM_CHECK(::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program) == 0);
}

sock_filter on_call(long number, unsigned char equal, unsigned char other) {
    return BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<std::uint32_t>(number), equal, other);
}
constexpr sock_filter kLoadNumber = BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr));
constexpr sock_filter kAllow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
constexpr sock_filter kKill = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);

// All threads of it, while the hook's waits for a broker that says nothing; and goes on for
// longer than any wait.
int lock_all_in() {
    char *const block = allocate(kBlock); // the thread begins
    sleep_ms(300);
    lock_in<6>({kLoadNumber, on_call(SYS_clock_nanosleep, 3, 0), on_call(SYS_exit_group, 2, 0),
                on_call(SYS_futex, 1, 0), kKill, kAllow},
               SECCOMP_FILTER_FLAG_TSYNC);
    block[0] = 1;
    sleep_ms(7000);
    std::_Exit(0);
}

// Into the strictest one, in which a heap can still be used.
int lock_strictly() {
    constexpr std::size_t kSmall = 70'000; // a block of the hook's, and none of mmap's
    std::array<char *, 100> blocks{};      // more than are kept for the next allocation
    for (char *&block : blocks) {
        block = allocate(kSmall);
        block[0] = 1;
    }
    UPM_CHECK(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) == 0);
    for (std::size_t i = 0; i + 1 < blocks.size(); ++i) // the last one holds the heap's end up
        std::free(blocks[i]);
    ::syscall(SYS_exit, 0);
    return 1;
}

// The hook's trial of what is allowed ends a process of its own, of which nothing is left.
int locked_in(char **command) {
    const rlimit all{.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};
    UPM_CHECK(::setrlimit(RLIMIT_CORE, &all) == 0);
    lock_in<4>({kLoadNumber, on_call(SYS_userfaultfd, 0, 1), kKill, kAllow}, 0);
    (void)::execv(command[0], command);
    return 2;
}

// The same where only the thread is ended, for a call that the hook does not make.
int thread_locked_in(char **command) {
    constexpr sock_filter kEnd = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_THREAD);
    lock_in<4>({kLoadNumber, on_call(SYS_acct, 0, 1), kEnd, kAllow}, 0);
    (void)::execv(command[0], command);
    return 2;
}

// --- waiting for nobody ---

struct Longest {
    double seconds = 0;
    const char *name = "nothing";
};

template <class Function>
void timed(Longest &longest, const char *name, Function function) {
    const double before = now();
    function();
    if (now() - before > longest.seconds)
        longest = {.seconds = now() - before, .name = name};
}

// Loads, forks and frees, for so many rounds, whatever comes to share.
int rounds(int count) {
    Longest longest;
    for (int i = 0; i < count; ++i) {
        char *const block = allocate(kBlock);
        timed(longest, "read", [&] { read_into(block); });
        timed(longest, "fork", [&] {
            UPM_CHECK(in_child([&] {
                          read_into(block);
                          std::free(block);
                          return 0;
                      }) == 0);
        });
        timed(longest, "madvise", [&] { (void)::madvise(block, kMib, MADV_DONTNEED); });
        timed(longest, "free", [&] { std::free(block); });
    }
    (void)std::printf("longest %.3f s in %s\n", longest.seconds, longest.name);
    (void)std::fflush(stdout);
    return 0;
}

} // namespace

int main(int argc, char **argv) {
    if (argc < 3)
        return 2;
    const std::string_view what = argv[1];
    path = argv[2];
    const int number = argc > 3 ? std::atoi(argv[3]) : 0;
    if (what == "user")
        return user(static_cast<uid_t>(number));
    if (what == "leave")
        return leave(argc > 3 ? argv[3] : "");
    if (what == "rounds")
        return rounds(number);
    if (what == "thread-locked-in")
        return thread_locked_in(argv + 3);
    if (what == "locked-in")
        return locked_in(argv + 3);
    struct {
        std::string_view name;
        int (*run)();
    } constexpr kTries[] = {{"load",
                             [] {
                                 std::free(load());
                                 return 0;
                             }},
                            {"cancelled", cancelled},
                            {"cancelled-in-reads", cancelled_in_reads},
                            {"protect-meanwhile", protect_meanwhile},
                            {"no-more-mappings", no_more_mappings},
                            {"key", key},
                            {"guard", guard},
                            {"process-advice", process_advice},
                            {"attach", attach},
                            {"locked", locked},
                            {"limit", limit},
                            {"lease", lease},
                            {"read-long", read_long},
                            {"lock-all-in", lock_all_in},
                            {"lock-strictly", lock_strictly}};
    for (const auto &test : kTries)
        if (what == test.name)
            return test.run();
    return 2;
}
