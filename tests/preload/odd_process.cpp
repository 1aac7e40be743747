// SPDX-License-Identifier: MIT
//
// Who a program is, how it ends, and whom it waits for.
#include "tests/preload/odd.hpp"

#include <atomic>
#include <barrier>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <linux/capability.h>
#include <pthread.h>
#include <sched.h>
#include <set>
#include <string>
#include <string_view>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <thread>
#include <vector>

namespace odd {

namespace {

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

} // namespace

// To the broker, what comes by a connection is of the user who made it.
int user(uid_t other) {
    free_later(load());
    const std::set<std::string> before = sockets();
    UPM_CHECK(!before.empty());
    UPM_CHECK(::seteuid(other) == 0);
    UPM_CHECK(::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0); // /proc/self is its own again
    free_later(load());
    const std::set<std::string> after = sockets();
    UPM_CHECK(!after.empty());
    bool some = false; // the hook's thread closes what it has when it looks
    for (const std::string &name : after)
        some = some || !before.contains(name);
    UPM_CHECK(some);
    return 0;
}

// Reads for long, when it is told to: a hole, in one call.
int read_long() {
    constexpr std::size_t kSize = 1024 * kMib;
    free_later(load());
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
        free_later(load());
    (void)allocate(kBlock);           // and the hook's thread lives on
    (void)std::fputs("left", stdout); // by the last one, if libc knows that it is
    if (std::strchr(how, 'w') != nullptr)
        std::thread([] { sleep_ms(500); }).detach();
    if (std::strchr(how, 'x') != nullptr)
        (void)::syscall(SYS_exit, 3);
    if (std::strchr(how, 'k') != nullptr)
        (void)::syscall(SYS_acct, 0); // forbidden
    ::pthread_exit(nullptr);
}

// What only a process with one thread may do.
int alone() {
    const auto enter_own = [] {
        const int own = ::open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
        return ::setns(own, 0) == 0;
    };
    const auto leave_users = [] { return ::unshare(CLONE_NEWUSER) == 0; };
    const bool may_enter = in_child([&] { return enter_own() ? 0 : 1; }) == 0;
    const bool may_leave = in_child([&] { return leave_users() ? 0 : 1; }) == 0;
    if (!may_enter && !may_leave)
        return kNothingTried;
    for (const bool entering : {true, false}) {
        if (entering ? !may_enter : !may_leave)
            continue;
        const auto run = [&] {
            free_later(load());
            return (entering ? enter_own() : leave_users()) ? 0 : 1;
        };
        UPM_CHECK(in_child(run) == 0);
    }
    return 0;
}

namespace {

// Returns true if a field is the same for all threads.
bool alike_in_all_threads(const char *field) {
    std::set<std::string> seen;
    for (const auto &task : std::filesystem::directory_iterator("/proc/self/task")) {
        std::ifstream status(task.path() / "status");
        for (std::string line; std::getline(status, line);)
            if (line.starts_with(field))
                seen.insert(line);
    }
    return seen.size() == 1;
}

} // namespace

// What a program with one thread gives up, none of its threads has.
int rights() {
    UPM_CHECK(in_child([] {
                  free_later(load());
                  UPM_CHECK(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
                  return alike_in_all_threads("NoNewPrivs:") ? 0 : 1;
              }) == 0);
    free_later(load());
    __user_cap_header_struct header{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3]{};
    UPM_CHECK(::syscall(SYS_capset, &header, none) == 0);
    UPM_CHECK(alike_in_all_threads("CapEff:") && alike_in_all_threads("CapPrm:"));
    free_later(allocate(kBlock));
    return 0;
}

// Threads that all read at one moment, before the hook knows whom to ask.
int wait_together() {
    constexpr int kThreads = 64;
    constexpr std::size_t kSize = 2 * kMib;
    std::vector<char *> blocks;
    for (int i = 0; i < kThreads; ++i)
        blocks.push_back(allocate(kSize));
    std::barrier together(kThreads);
    std::vector<std::thread> threads;
    for (char *const block : blocks)
        threads.emplace_back([&, block] {
            const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
            UPM_CHECK(fd >= 0);
            together.arrive_and_wait();
            UPM_CHECK(::pread(fd, block, kSize, 0) == static_cast<ssize_t>(kSize));
            (void)::close(fd);
        });
    for (std::thread &thread : threads)
        thread.join();
    return 0;
}

namespace {

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

} // namespace

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

} // namespace odd
