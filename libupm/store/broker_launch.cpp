// SPDX-License-Identifier: MIT
//
// How the broker is started from inside any program: without a child that the program's wait(2)
// could find, without SIGCHLD, without its fork handlers, and without a copy of its page tables.
#include "libupm/base/close_range.hpp"
#include "libupm/base/gate.hpp"
#include "libupm/base/system.hpp"
#include "libupm/store/client.hpp"

#include <atomic>
#include <cerrno>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef UPM_BINDIR
#define UPM_BINDIR "/usr/local/bin"
#endif

namespace upm::store {

namespace {

constinit std::atomic<bool> may_start{true};

// A tracer of the program (strace -f) would wait for the broker to end.
constexpr int kFlags = CLONE_VM | CLONE_VFORK | CLONE_UNTRACED;

// What the new process needs; in the memory that it shares with this one.
struct Launch {
    char program[PATH_MAX];
    const char *socket;
    int ready;   // where upmd says that it listens
    char *stack; // of the second process
    std::size_t stack_size;
};

int exec_broker(void *argument) {
    const auto *const launch = static_cast<const Launch *>(argument);
    (void)::setsid();
    rlimit files{};
    if (::getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void)::setrlimit(RLIMIT_NOFILE, &files);
    }
    // Above the numbers below, so that no dup2 hits the other one, or itself.
    const int ready = ::fcntl(launch->ready, F_DUPFD, kReadyFd + 1);
    const int opened = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    const int null = ::fcntl(opened, F_DUPFD, kReadyFd + 1);
    for (int fd = 0; fd < kReadyFd; ++fd)
        (void)::dup2(null, fd);
    (void)::dup2(ready, kReadyFd);
    // It must not keep a pipe open that belongs to the program, or its directory.
    (void)close_descriptors(kReadyFd + 1, ~0U, 0);
    if (null < 0 || ready < 0 || ::chdir("/") != 0)
        ::_exit(127);
    sigset_t none;
    (void)::sigemptyset(&none);
    (void)::sigprocmask(SIG_SETMASK, &none, nullptr);
    const char *const arguments[] = {launch->program, "--on-demand", "--socket", launch->socket,
                                     nullptr};
    static constexpr const char *kEnvironment[] = {"PATH=/usr/bin:/bin", nullptr};
    (void)::execve(launch->program, const_cast<char *const *>(arguments),
                   const_cast<char *const *>(kEnvironment));
    ::_exit(127);
}

// Returns true if orphans of this process become its own children, where its wait(2)
// would find a broker, and one that waits for "all children" would wait for ever.
bool inherits_orphans() noexcept {
    int subreaper = 0;
    return ::getpid() == 1 || (::prctl(PR_GET_CHILD_SUBREAPER, &subreaper) == 0 && subreaper != 0);
}

// The process in between ends at once, so that upmd becomes a child of init.
int launch_and_leave(void *argument) {
    auto *const launch = static_cast<Launch *>(argument);
    const int child = ::clone(exec_broker, launch->stack + launch->stack_size, kFlags, launch);
    ::_exit(child < 0 ? 127 : 0);
}

bool is_program(const char *path) noexcept {
    return ::access(path, X_OK) == 0;
}

// upmd: beside the library, as in a build or an installed tree, or where this
// build was to be installed.
bool find_program(char (&path)[PATH_MAX]) noexcept {
    Dl_info library{};
    char folder[PATH_MAX] = "";
    if (::dladdr(reinterpret_cast<const void *>(&start_broker), &library) != 0 &&
        ::realpath(library.dli_fname, folder) != nullptr) {
        char *const slash = std::strrchr(folder, '/');
        if (slash != nullptr)
            *slash = '\0';
        for (const char *relative : {"upmd", "../bin/upmd", "../../bin/upmd"}) {
            const int length = std::snprintf(path, sizeof(path), "%s/%s", folder, relative);
            if (length > 0 && length < PATH_MAX && is_program(path))
                return true;
        }
    }
    (void)std::snprintf(path, sizeof(path), "%s/upmd", UPM_BINDIR);
    return is_program(path);
}

// Pre: `launch` is filled in. 0 or -errno.
int start(Launch &launch) noexcept {
    // A handler of the program must not run in processes that share its memory.
    sigset_t everything;
    sigset_t before;
    (void)::sigfillset(&everything);
    (void)::pthread_sigmask(SIG_SETMASK, &everything, &before);
    const int child =
        ::clone(launch_and_leave, launch.stack + 2 * launch.stack_size, kFlags, &launch);
    int ret = child < 0 ? -errno : 0;
    int status = 0;
    if (child > 0 && ::waitpid(child, &status, __WCLONE) == child && status != 0)
        ret = -EAGAIN;
    (void)::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    return ret;
}

// What it says: 0 or 1 as start_broker() has them, or -ECHILD if it ends without a word.
int wait_until_ready(int pipe) noexcept {
    constexpr int kLookMs = 20;
    pollfd event{.fd = pipe, .events = POLLIN, .revents = 0};
    const std::uint64_t deadline = now_ms() + kReplyMs;
    int ready = 0;
    while (ready <= 0 && now_ms() < deadline && !waits_ended()) {
        ready = ::poll(&event, 1, kLookMs);
        if (ready < 0 && errno != EINTR)
            break;
    }
    char word = 0;
    if (ready <= 0)
        return -ETIMEDOUT;
    if (::read(pipe, &word, 1) != 1)
        return -ECHILD;
    return word == kListens ? 0 : 1;
}

} // namespace

int start_broker(const SocketPath &path) noexcept {
    if (inherits_orphans())
        return -ECHILD;
    constexpr std::size_t kStack = 64UL * 1024;
    constexpr std::size_t kSize = 2 * kStack + sizeof(Launch);
    void *const memory =
        ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return -errno;
    char *const stacks = static_cast<char *>(memory);
    auto *const launch = reinterpret_cast<Launch *>(stacks + 2 * kStack);
    launch->socket = path.text;
    launch->stack = stacks;
    launch->stack_size = kStack;
    int ends[2] = {-1, -1};
    int ret = -ENOENT;
    if (may_start && find_program(launch->program))
        ret = ::pipe2(ends, O_CLOEXEC) == 0 ? 0 : -errno;
    if (ret == 0) {
        launch->ready = ends[1];
        ret = start(*launch);
        ::close(ends[1]);
        if (ret == 0)
            ret = wait_until_ready(ends[0]);
        ::close(ends[0]);
    }
    (void)::munmap(memory, kSize);
    return ret;
}

void start_no_broker() noexcept {
    may_start = false;
}

bool only_looks() noexcept {
    return !may_start;
}

bool would_start_broker() noexcept {
    char program[PATH_MAX];
    return !may_start && find_program(program);
}

} // namespace upm::store
