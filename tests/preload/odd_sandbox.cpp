// SPDX-License-Identifier: MIT
//
// Programs that lock themselves in.
#include "tests/preload/odd.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

namespace odd {

namespace {

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

} // namespace

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

} // namespace odd
