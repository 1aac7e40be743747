// SPDX-License-Identifier: MIT
#include "preload/adviser.hpp"

#include "libupm/api/library.hpp"
#include "libupm/base/descriptor_table.hpp"
#include "libupm/base/env.hpp"
#include "preload/blocks.hpp"
#include "preload/changes.hpp"
#include "preload/late.hpp"
#include "preload/loads.hpp"
#include "preload/local.hpp"
#include "preload/numbers.hpp"
#include "preload/pass.hpp"
#include "preload/real.hpp"
#include "preload/sandbox.hpp"
#include "preload/trim.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <pthread.h>
#include <string_view>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <upm/upm.hpp>

namespace upm::hook {

namespace {

constexpr std::size_t kStackSize = 256UL * 1024;
// A thread costs more than what less memory than this could save; and programs
// that stay small stay single-threaded, as some of them must (unshare, setns).
constexpr std::uint64_t kStartBytes = 1UL << 20;
// Idle: that many ticks in a row with next to nothing done. The allowance is for
// programs that wake up to look at a clock.
constexpr unsigned kTicks = 4;
constexpr std::uint64_t kAllowedShare = 50;
constexpr std::uint64_t kAllowedNs = 20'000;
constexpr std::uint64_t kLongestPauseNs = 60'000'000'000;
// Until the first further look for a backend; each next one comes twice as late.
constexpr std::uint64_t kFirstLookNs = 1'000'000'000;

constinit Settings settings;
constinit std::atomic<pid_t> home{0}; // the process in which the thread belongs
// Changes whenever the thread has to look what there is to do; it sleeps on it.
constinit std::atomic<std::uint32_t> bell{0};
// Changes whenever there is something new to advise.
constinit std::atomic<std::uint32_t> news{0};
constinit std::atomic<bool> no_backend{false};
// Reads into blocks come to share, whether or not the backend can advise them.
constinit std::atomic<bool> loads{false};
// UPM_TRIGGER=manual: the thread has found out, which is all that it has to do.
constinit std::atomic<bool> looked{false};

// The program's first thread has ended, or is about to: the hook's must not be the last one.
constinit std::atomic<bool> first_left{false};
constinit sigset_t signals_before{}; // of who started the thread

// How long the thread sleeps at a time. A filter of system calls may end a thread, and nobody
// is told.
std::uint64_t bounded(std::uint64_t ns) noexcept {
    constexpr std::uint64_t kLeftNs = 10'000'000;
    constexpr std::uint64_t kFilteredNs = 10'000'000'000;
    const std::uint64_t most = first_left.load() ? kLeftNs : filtered() ? kFilteredNs : UINT64_MAX;
    return std::min(ns, most);
}

// A thread that is awake sees the new value before it sleeps.
void ring() noexcept {
    bell.fetch_add(1);
    if (local().asleep.load())
        futex_wake_all(bell);
}

void sleep_ns(std::uint64_t ns) noexcept {
    timespec time{};
    time.tv_sec = static_cast<time_t>(ns / 1'000'000'000U);
    time.tv_nsec = static_cast<long>(ns % 1'000'000'000U);
    (void)::nanosleep(&time, nullptr);
}

// What /proc/PID/stat says of a thread: "PID (name) S ...".
struct Stat {
    char state = '?';
    unsigned long threads = 0; // of the process
    int status = 0;            // of a thread that has ended, as waitpid(2) would say it
};

bool read_stat(int folder, const char *path, Stat &stat) noexcept {
    constexpr int kThreads = 18; // the numbers of these fields, from the state on
    constexpr int kStatus = 50;
    char text[512];
    const int fd = ::openat(folder, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    const ssize_t got = ::read(fd, text, sizeof(text));
    ::close(fd);
    std::string_view line(text, got > 0 ? static_cast<std::size_t>(got) : 0);
    const std::size_t end = line.rfind(')');
    if (end == std::string_view::npos || line.size() < end + 3)
        return false;
    line.remove_prefix(end + 2);
    stat.state = line.front();
    for (int field = 1; field < kStatus; ++field) {
        if (field == kThreads)
            (void)std::from_chars(line.data(), line.data() + line.size(), stat.threads);
        line.remove_prefix(std::min(line.size(), line.find(' ') + 1));
    }
    (void)std::from_chars(line.data(), line.data() + line.size(), stat.status);
    return true;
}

// A process ends with its last thread. The hook's is none of the program's, and takes no
// signal that would end it: so it ends when no other is left, as the last of them did. That
// was the first one, or one of which nothing is known.
struct Alone {
    bool now = false;
    bool others_stayed = false;
    int status = 0;
};
constinit Alone alone;

void end_with_the_others() noexcept {
    Stat stat;
    if ((!first_left.load() && !filtered()) || !read_stat(AT_FDCWD, "/proc/self/stat", stat) ||
        stat.state != 'Z')
        return;
    constexpr unsigned long kNoOthers = 2; // the first one, and this
    alone.others_stayed = alone.others_stayed || stat.threads > kNoOthers;
    if (stat.threads > kNoOthers)
        return;
    alone.now = true;
    alone.status = alone.others_stayed ? 0 : stat.status;
    end_all_pieces();
}

// The end of this thread, if it is that of the process. libc runs what exit(3) does if all
// its threads ended by its own means.
void end_process() noexcept {
    constexpr int kSignals = 0x7f;
    (void)::pthread_sigmask(SIG_SETMASK, &signals_before, nullptr);
    if (const int number = alone.status & kSignals; number != 0) {
        struct sigaction action {};
        action.sa_handler = SIG_DFL;
        (void)::sigaction(number, &action, nullptr);
        (void)::syscall(SYS_tgkill, ::getpid(), ::gettid(), number);
    }
    if (alone.status != 0)
        (void)::syscall(SYS_exit, alone.status >> 8);
}

bool works(const Stat &stat) noexcept {
    return stat.state == 'D' || stat.state == 'R';
}

// A thread in uninterruptible sleep waits for a disk, which may be filling a block
// right now; a runnable one waits for a processor on a busy machine, so that it used
// none is no sign of idleness.
//
// Of a program with one thread, /proc/self/stat says it all. /proc/self/task is left alone
// then: what is looked at there stays in the kernel's cache until its thread ends, and a
// process whose threads drop theirs at the same time as its parent takes it away keeps that
// parent turning in shrink_dcache_parent() until each of them had a processor once more.
bool has_work() noexcept {
    Stat stat;
    if (read_stat(AT_FDCWD, "/proc/self/stat", stat) && stat.threads == 2)
        return works(stat); // that one, and this
    const int tasks = ::open("/proc/self/task", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (tasks < 0)
        return false;
    const pid_t self = ::gettid();
    bool found = false;
    (void)all_numbers(tasks, [&](pid_t thread) {
        char path[32];
        (void)std::snprintf(path, sizeof(path), "%d/stat", thread);
        found = thread != self && read_stat(tasks, path, stat) && works(stat);
        return !found;
    });
    ::close(tasks);
    return found;
}

// For people and scripts, who see it from outside (ps -T, /proc/ID/task/*/comm), from
// outside a container, too. 15 bytes at most.
void show_state(bool idle) noexcept {
    (void)::prctl(PR_SET_NAME, idle ? "upm-hook idle" : "upm-hook");
}

// Tells about what was unmapped, if anything was.
void report_unmapped() noexcept {
    std::atomic<bool> &unmapped = local().unmapped;
    if (unmapped.load(std::memory_order_relaxed) && unmapped.exchange(false) &&
        !engine().backend().unmapped())
        unmapped = true; // later
}

void wait_until_idle() noexcept {
    const std::uint64_t tick = std::max<std::uint64_t>(settings.idle_ns / kTicks, 1'000'000);
    unsigned quiet = 0;
    std::uint64_t cpu = others_cpu_ns();
    while (quiet < kTicks && !all_pieces_ended()) {
        // While it is busy, looking once in a while is enough.
        const std::uint64_t pause = quiet == 0 ? std::max(tick, settings.idle_ns / 2) : tick;
        sleep_ns(bounded(pause));
        end_with_the_others();
        report_unmapped();
        const std::uint64_t now = others_cpu_ns();
        // Added, not subtracted: two clocks make it up, and it may go back a little.
        quiet = now <= cpu + pause / kAllowedShare + kAllowedNs ? quiet + 1 : 0;
        cpu = now;
        if (quiet == kTicks && has_work())
            quiet = 0;
    }
}

// Until there is a new block, or what was freed is due for trimming, or what came too late to
// share is due for another try, or an old block is due and the program did something that may have
// changed it.
void wait_for_work(std::uint32_t seen) noexcept {
    constexpr std::uint64_t kShortestPauseNs = 1'000'000;
    constexpr std::uint64_t kSoonNs = 10'000'000'000; // what is due later, nobody waits for
    const bool idle = settings.trigger == Trigger::kIdle;
    const std::uint64_t trim = idle ? next_trim_ns() : UINT64_MAX;
    const std::uint64_t late = idle ? next_late_ns() : UINT64_MAX;
    const std::uint64_t next = std::min(trim, late);
    std::uint64_t pause = 0;
    for (std::uint32_t rung = bell.load(); news.load() == seen && !all_pieces_ended();
         rung = bell.load()) {
        report_unmapped();
        end_with_the_others();
        const std::uint64_t due = idle ? next_pass_ns() : UINT64_MAX;
        const std::uint64_t now = now_ns();
        const bool changed = due != UINT64_MAX && worked_since_last_look();
        if (next <= now || (due <= now && pause != 0 && changed))
            break;
        const std::uint64_t look = std::min(late, changed ? due : UINT64_MAX);
        show_state(trim == UINT64_MAX && look - std::min(look, now) >= kSoonNs);
        pause = due == UINT64_MAX
                    ? UINT64_MAX
                    : std::clamp(due > now ? due - now : 0,
                                 std::min(pause * 2 + kShortestPauseNs, kLongestPauseNs),
                                 kLongestPauseNs);
        local().asleep = true;
        const std::uint64_t most = next == UINT64_MAX ? pause : std::min(pause, next - now);
        futex_wait(bell, rung, bounded(most));
        local().asleep = false;
    }
    show_state(false);
}

void sleep_until(std::uint64_t deadline) noexcept {
    for (std::uint64_t now = now_ns(); now < deadline; now = now_ns()) {
        const std::uint32_t rung = bell.load();
        end_with_the_others();
        if (all_pieces_ended())
            break;
        futex_wait(bell, rung, bounded(deadline - now));
    }
}

bool module_is_there() noexcept {
    return ::access("/dev/upm", F_OK) == 0;
}

// The module's descriptor is the process's: it cannot be opened by a thread that has its own.
bool wants_another_thread() noexcept {
    return descriptor_table() != 0 && module_is_there();
}

// A broker or a module may come later. False: there will be no backend, or not here.
bool wait_for_backend() noexcept {
    show_state(true);
    for (std::uint64_t pause = kFirstLookNs;
         is_last_resort() && !all_pieces_ended() && !wants_another_thread();
         pause = std::min(2 * pause, kLongestPauseNs)) {
        sleep_until(now_ns() + pause);
        if (!all_pieces_ended() && !wants_another_thread() && look_again())
            return true;
    }
    return false;
}

// Has reads share from now on, if that is wished and the backend does it.
void look_for_loads() noexcept {
    if (!settings.loads || loads.load())
        return;
    const Info found = upm::info();
    const bool shares = found.load == kLoadsWhileReading;
    if (shares) {
        loads = true;
        set_may_restore(maps_over_blocks(found));
    }
    set_loads(shares, settings.trigger == Trigger::kIdle && is_last_resort());
}

// What the program read before loads could share is told to the backend, so that it is there for
// others, soon: who starts them does not wait until this program is idle.
void tell_of_late() noexcept {
    LatePart part;
    while (loads.load() && !all_pieces_ended() && take_untold(part)) {
        const int fd = open_late(part);
        if (fd < 0)
            continue;
        engine().loaded_plainly({.fd = fd,
                                 .offset = static_cast<std::int64_t>(part.offset),
                                 .into = part.at,
                                 .len = part.len,
                                 .flags = UPM_LOAD_ORDINARY});
        ::close(fd);
    }
}

// From then on, nothing that this thread opens is seen by the program. So it comes before the
// look for a backend, unless that may be the module, or is to be told on standard error.
void take_own_descriptors_first() noexcept {
    std::uint8_t key[16];
    (void)env::get(env::backend); // reports what it does not understand
    (void)env::get(env::domain, key);
    if (!module_is_there() && !env::get(env::verbose))
        (void)take_own_table();
}

// The same once there is a backend; not with the module.
void take_own_descriptors() noexcept {
    if (descriptor_table() == 0 && !is_last_resort())
        (void)engine().move_to_own_table();
}

void *run(void * /*unused*/) noexcept {
    const Guard guard;
    note_thread(::gettid());
    if (!system_calls_allowed()) {
        no_backend = true;
        return nullptr;
    }
    if (settings.trigger != Trigger::kManual)
        take_own_descriptors_first();
    look_for_loads();
    if (settings.trigger == Trigger::kManual) {
        looked = true;
        local().thread_runs = false;
        return nullptr;
    }
    show_state(false);
    take_own_descriptors();
    std::uint32_t seen = news.load();
    if (settings.trigger == Trigger::kSignal)
        wait_for_work(seen);
    while (!all_pieces_ended()) {
        seen = news.load();
        const bool idle = settings.trigger == Trigger::kIdle;
        tell_of_late();
        if (idle)
            wait_until_idle();
        upm_counts counts;
        const Wanted wanted{.mark = 0, .forced = !idle, .interruptible = idle};
        const int error = run_pass(settings, wanted, counts);
        if (error == EOPNOTSUPP && !wait_for_backend()) {
            if (wants_another_thread())
                local().thread_runs = false; // the next block starts it
            else
                no_backend = !all_pieces_ended();
            break;
        }
        look_for_loads();
        take_own_descriptors();
        if (error != EINTR && error != EOPNOTSUPP)
            wait_for_work(seen);
    }
    if (alone.now)
        end_process();
    return nullptr;
}

void start_thread() noexcept {
    const Guard guard;
    pthread_attr_t attributes;
    if (::pthread_attr_init(&attributes) != 0)
        return;
    (void)::pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    (void)::pthread_attr_setstacksize(&attributes, kStackSize);
    // Signals are the program's: their handlers must not run on our small stack.
    sigset_t everything;
    sigset_t before;
    (void)::sigfillset(&everything);
    (void)::pthread_sigmask(SIG_SETMASK, &everything, &before);
    pthread_t thread{};
    signals_before = before;
    int error = ::pthread_create(&thread, &attributes, run, nullptr);
    if (error == EINVAL) {
        // glibc puts thread-local variables on the stack, and some have many
        (void)::pthread_attr_setstacksize(&attributes, 8UL << 20);
        error = ::pthread_create(&thread, &attributes, run, nullptr);
    }
    if (error != 0)
        note_thread(kNoThread);
    (void)::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    (void)::pthread_attr_destroy(&attributes);
}

void on_signal(int /*number*/) noexcept {
    const int error = errno;
    news.fetch_add(1);
    ring();
    errno = error;
}

void watch_signal() noexcept {
    const int number = SIGRTMAX - kSignalBelowMax;
    struct sigaction now {};
    if (::sigaction(number, nullptr, &now) != 0 || now.sa_handler != SIG_DFL)
        return; // the program has its own use for it
    struct sigaction action {};
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    (void)::sigaction(number, &action, nullptr);
}

// The thread is started again by the next new block.
void after_fork_child() noexcept {
    local_after_fork_child();
    change_after_fork_child();
    pass_after_fork_child();
    blocks_after_fork_child();
    loads_after_fork_child();
    first_left = false;
    home = ::getpid();
}

} // namespace

void start_adviser(const Settings &chosen) noexcept {
    settings = chosen;
    home = ::getpid();
    (void)::pthread_atfork(change_before_fork, change_after_fork_parent, after_fork_child);
    if (settings.trigger == Trigger::kSignal)
        watch_signal();
}

bool notice_block(bool may_start) noexcept {
    if (no_backend.load(std::memory_order_relaxed))
        return loads.load(std::memory_order_relaxed);
    if (settings.trigger == Trigger::kManual && (!settings.loads || looked.load()))
        return true;
    std::atomic<bool> &thread_runs = local().thread_runs;
    if (!thread_runs.load(std::memory_order_relaxed)) {
        // In the child of a vfork or of a bare clone, it would be another's thread.
        if (!may_start || block_totals().live_bytes < kStartBytes || ::getpid() != home.load() ||
            thread_runs.exchange(true))
            return true;
        start_thread();
    }
    if (settings.trigger != Trigger::kIdle)
        return true; // its bell is for the signal
    news.fetch_add(1);
    ring();
    return true;
}

// Without a thread, at once: a packet that is sent only if there is room for it.
void notice_unmapped() noexcept {
    Local &mine = local();
    if (sandboxed() || mine.unmapped.exchange(true))
        return;
    if (mine.thread_runs.load()) {
        ring();
    } else {
        const Guard guard;
        report_unmapped();
    }
}

void notice_late() noexcept {
    if (settings.trigger != Trigger::kIdle)
        return;
    news.fetch_add(1);
    ring();
}

void notice_exit() noexcept {
    if (sandboxed() || ::gettid() != ::getpid())
        return;
    const Guard guard;
    const int error = errno;
    first_left = true;
    end_work();
    errno = error;
}

void wake_adviser() noexcept {
    bell.fetch_add(1);
    futex_wake_all(bell);
}

namespace {

// For who asks without the thread: not each time, since a look may take long.
bool look_again_by_now() noexcept {
    static constinit std::atomic<std::uint64_t> next{0};
    static constinit std::atomic<std::uint64_t> pause{kFirstLookNs};
    const Guard guard;
    std::uint64_t due = next.load();
    const std::uint64_t now = now_ns();
    if (!is_last_resort() || now < due || !next.compare_exchange_strong(due, now + pause.load()))
        return false;
    pause = std::min(2 * pause.load(), kLongestPauseNs);
    return look_again();
}

} // namespace

int advise_now(std::uint64_t mark, upm_counts &counts) noexcept {
    const Wanted wanted{.mark = mark, .forced = true, .interruptible = false};
    int error = run_pass(settings, wanted, counts);
    if (error == EOPNOTSUPP && look_again_by_now())
        error = run_pass(settings, wanted, counts);
    if (error == EOPNOTSUPP)
        no_backend = !is_last_resort();
    return -error;
}

void fill_report(upm_hook_stats &report) noexcept {
    report = {};
    const BlockTotals &blocks = block_totals();
    report.blocks = blocks.blocks;
    report.bytes = blocks.bytes;
    report.live_blocks = blocks.live_blocks;
    report.live_bytes = blocks.live_bytes;
    fill_pass_report(report);
    fill_load_report(report);
}

bool gave_up() noexcept {
    return no_backend;
}

bool has_one_thread_of_its_own() noexcept {
    Stat stat;
    return local().thread_runs.load() && !sandboxed() &&
           read_stat(AT_FDCWD, "/proc/self/stat", stat) && stat.threads == 2;
}

} // namespace upm::hook
