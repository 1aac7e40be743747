// SPDX-License-Identifier: MIT
#include "preload/sandbox.hpp"

#include "preload/adviser.hpp"
#include "preload/changes.hpp"
#include "preload/enable.hpp"
#include "preload/loads.hpp"
#include "preload/local.hpp"
#include "preload/real.hpp"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <fcntl.h>
#include <sched.h>
#include <string_view>
#include <sys/fanotify.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace upm::hook {

namespace {

constinit std::atomic<bool> begun{false};
constinit std::atomic<pid_t> adviser{0}; // its thread; 0: not known yet
constinit std::atomic<bool> has_filter{false};

// Reads a small file of /proc. 0 bytes if that fails.
std::string_view read_file(const char *path, char *buffer, std::size_t size) noexcept {
    const int fd = ::open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t got = fd >= 0 ? ::read(fd, buffer, size) : 0;
    if (fd >= 0)
        ::close(fd);
    return {buffer, got > 0 ? static_cast<std::size_t>(got) : 0};
}

bool find_filter() noexcept {
    constexpr std::string_view kField = "\nSeccomp:\t";
    char buffer[4096];
    const std::string_view text = read_file("/proc/self/status", buffer, sizeof(buffer));
    const std::size_t at = text.find(kField);
    return at == std::string_view::npos || text.substr(at + kField.size(), 1) != "0";
}

// Each call that a pass makes, with arguments for which nothing happens. Whoever looks for
// the program's core files finds none of this process, which is ended for the first of them
// that is forbidden.
[[noreturn]] void try_calls() noexcept {
    constexpr long kNone = -1;
    (void)::syscall(SYS_prctl, PR_SET_DUMPABLE, 0L, 0L, 0L, 0L);
    constexpr long kCalls[][4] = {{SYS_userfaultfd, kNone, 0, 0},
                                  {SYS_memfd_create, 0, kNone, 0},
                                  {SYS_socket, kNone, 0, 0},
                                  {SYS_connect, kNone, 0, 0},
                                  {SYS_setsockopt, kNone, 0, 0},
                                  {SYS_getsockopt, kNone, 0, 0},
                                  {SYS_sendmsg, kNone, 0, 0},
                                  {SYS_recvmsg, kNone, 0, 0},
                                  {SYS_ppoll, 0, kNone, 0},
                                  {SYS_ioctl, kNone, 0, 0},
                                  {SYS_fcntl, kNone, 0, 0},
                                  {SYS_fallocate, kNone, 0, 0},
                                  {SYS_ftruncate, kNone, 0, 0},
                                  {SYS_fstatfs, kNone, 0, 0},
                                  {SYS_statfs, 0, 0, 0},
                                  {SYS_pread64, kNone, 0, 0},
                                  {SYS_pwrite64, kNone, 0, 0},
                                  {SYS_getdents64, kNone, 0, 0},
                                  {SYS_newfstatat, kNone, 0, 0},
                                  {SYS_statx, kNone, 0, 0},
                                  {SYS_readlinkat, kNone, 0, 0},
                                  {SYS_openat, kNone, 0, 0},
                                  {SYS_msync, 1, 0, 0},
                                  {SYS_mremap, 1, 0, 0},
                                  {SYS_madvise, 1, 0, 0},
                                  {SYS_mprotect, 1, 0, 0},
                                  {SYS_rt_sigprocmask, kNone, 0, 0},
                                  {SYS_clock_gettime, kNone, 0, 0},
                                  {SYS_futex, 1, kNone, 0},
                                  {SYS_prlimit64, kNone, kNone, 0},
                                  {SYS_close_range, kNone, 0, 0},
                                  {SYS_mq_getsetattr, kNone, 0, 0},
                                  {SYS_eventfd2, 0, kNone, 0},
                                  {SYS_getxattr, 0, 0, 0}};
    for (const auto &call : kCalls)
        (void)::syscall(call[0], call[1], call[2], call[3], 0L, 0L, 0L);
    ::_exit(0);
}

// Until the adviser's thread has ended, which takes as long as a wait for the broker that it
// breaks off. A second is more than any of them.
void wait_until_ended() noexcept {
    constexpr timespec kPause{.tv_sec = 0, .tv_nsec = 1'000'000};
    for (int i = 0; i < 1000; ++i) {
        const pid_t thread = adviser.load();
        if (thread != 0 && ::syscall(SYS_tgkill, ::getpid(), thread, 0) != 0)
            return;
        (void)::nanosleep(&kPause, nullptr);
    }
}

void begin() noexcept {
    const int error = errno;
    if (!begun.exchange(true)) {
        const Guard guard;
        end_work();
    }
    errno = error;
}

// What the calling thread gives up, the hook's would keep: capabilities, what it may gain by
// executing a file, what Landlock forbids. A thread that starts later has no more than it.
bool gives_rights_up(long number, long first) noexcept {
    constexpr long kLandlockRestrictSelf = 446; // not in older headers
    if (number == SYS_prctl)
        return first == PR_SET_NO_NEW_PRIVS || first == PR_CAPBSET_DROP ||
               first == PR_SET_SECUREBITS;
    return number == SYS_capset || number == kLandlockRestrictSelf;
}

// Whoever is asked before files are opened must not open any that the program did not: it would
// ask itself.
bool decides_about_files(long number, long first) noexcept {
    constexpr unsigned long kDecides = FAN_CLASS_CONTENT | FAN_CLASS_PRE_CONTENT;
    return number == SYS_fanotify_init && (static_cast<unsigned long>(first) & kDecides) != 0;
}

void end_without_sandbox() noexcept {
    const int error = errno;
    if (!sandboxed()) {
        const Guard guard;
        end_work();
        local().thread_runs = false;
    }
    errno = error;
}

// One that starts later is no harm.
void end_thread() noexcept {
    if (local().thread_runs.load())
        end_without_sandbox();
}

// A process with several threads may not enter a new user namespace.
bool must_be_alone(long number, long first) noexcept {
    return number == SYS_unshare && (static_cast<unsigned long>(first) & CLONE_NEWUSER) != 0 &&
           has_one_thread_of_its_own();
}

} // namespace

void end_work() noexcept {
    set_threshold(SIZE_MAX);
    end_loads();
    end_all_pieces();
    end_waits();
    wake_adviser();
    if (local().thread_runs.load())
        wait_until_ended();
}

bool system_calls_allowed() noexcept {
    has_filter = find_filter();
    if (!filtered())
        return true;
    // By the bare call: no fork handlers, and no SIGCHLD, so that the program's wait(2)
    // does not find it. With memory of its own: old kernels end all who share it.
    const auto child = static_cast<pid_t>(::syscall(SYS_clone, 0L, 0L, 0L, 0L, 0L));
    if (child == 0)
        try_calls();
    int status = -1;
    if (child > 0 && ::waitpid(child, &status, __WCLONE) != child)
        status = -1;
    if (status != 0) {
        begun = true;
        end_loads();
    }
    return status == 0;
}

bool filtered() noexcept {
    return has_filter.load(std::memory_order_relaxed);
}

bool sandboxed() noexcept {
    return begun.load(std::memory_order_relaxed);
}

void note_thread(pid_t thread) noexcept {
    adviser = thread;
}

} // namespace upm::hook

// Called by syscall(): the only ways into a sandbox, and the end of a thread.
extern "C" __attribute__((visibility("hidden"))) void upm_hook_before_syscall(long number,
                                                                              long first) {
    constexpr long kGetAction = 2; // SECCOMP_GET_ACTION_AVAIL; the first two set a filter
    if ((number == SYS_seccomp && first < kGetAction) ||
        (number == SYS_prctl && first == PR_SET_SECCOMP))
        upm::hook::begin();
    else if (upm::hook::decides_about_files(number, first))
        upm::hook::end_without_sandbox();
    else if (upm::hook::gives_rights_up(number, first) || upm::hook::must_be_alone(number, first))
        upm::hook::end_thread();
    else if (number == SYS_exit)
        upm::hook::notice_exit();
}

extern "C" __attribute__((visibility("default"))) int unshare(int flags) noexcept {
    return static_cast<int>(::syscall(SYS_unshare, static_cast<long>(flags)));
}

// What kind it is may be known to the kernel alone.
extern "C" __attribute__((visibility("default"))) int setns(int fd, int kind) noexcept {
    const auto enter = [&] {
        return static_cast<int>(
            ::syscall(SYS_setns, static_cast<long>(fd), static_cast<long>(kind)));
    };
    const int result = enter();
    if (result == 0 || errno != EINVAL || !upm::hook::has_one_thread_of_its_own())
        return result;
    upm::hook::end_thread();
    return enter();
}

extern "C" __attribute__((visibility("default"))) int capset(void *header, const void *data) {
    return static_cast<int>(::syscall(SYS_capset, header, data));
}

extern "C" __attribute__((visibility("default"))) int fanotify_init(unsigned flags,
                                                                    unsigned file_flags) noexcept {
    return static_cast<int>(::syscall(SYS_fanotify_init, static_cast<unsigned long>(flags),
                                      static_cast<unsigned long>(file_flags)));
}

extern "C" __attribute__((visibility("default"))) int prctl(int option, ...) {
    va_list list;
    va_start(list, option);
    const long second = va_arg(list, long);
    const long third = va_arg(list, long);
    const long fourth = va_arg(list, long);
    const long fifth = va_arg(list, long);
    va_end(list);
    return static_cast<int>(
        ::syscall(SYS_prctl, static_cast<long>(option), second, third, fourth, fifth));
}
