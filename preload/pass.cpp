// SPDX-License-Identifier: MIT
#include "preload/pass.hpp"

#include "libupm/mm/layout.hpp"
#include "preload/adviser.hpp"
#include "preload/blocks.hpp"
#include "preload/maps.hpp"
#include "preload/page.hpp"
#include "preload/real.hpp"
#include "preload/stacks.hpp"
#include "preload/trim.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <ctime>
#include <dlfcn.h>
#include <fcntl.h>
#include <malloc.h>
#include <optional>
#include <pthread.h>
#include <unistd.h>
#include <upm/upm.hpp>

namespace upm::hook {

namespace {

// A piece at a time, so that a fork, an unmapping, or a program that wants to go
// on waits some milliseconds at most.
constexpr std::size_t kPieceBytes = 8UL << 20;
// The program is busy again when it uses more than a fifth of a processor.
constexpr std::uint64_t kBusyShare = 5;
// What it may use and still count as unchanged since the last look: programs that wait
// wake up once in a while.
constexpr std::uint64_t kAllowedNs = 2'000'000;
constexpr std::uint64_t kIdleShare = 1000;

// Lock order: pass_lock, piece_lock. Nothing else is locked while one is held, but
// by the library and, for trimming, by the allocator.
constinit pthread_mutex_t pass_lock = PTHREAD_MUTEX_INITIALIZER;
constinit pthread_mutex_t piece_lock = PTHREAD_MUTEX_INITIALIZER;

constinit std::atomic<bool> stopped{false};
constinit std::atomic<bool> remaps{false};
constinit std::atomic<std::uint64_t> next_due{UINT64_MAX};
// When the last pass began that left nothing for later; under pass_lock.
struct Look {
    std::uint64_t wall_ns = 0;
    std::uint64_t cpu_ns = 0;
};
constinit Look last_look;

class Lock {
  public:
    explicit Lock(pthread_mutex_t &mutex) noexcept : mutex_(mutex) { ::pthread_mutex_lock(&mutex); }
    Lock(const Lock &) = delete;
    Lock &operator=(const Lock &) = delete;
    ~Lock() { ::pthread_mutex_unlock(&mutex_); }

  private:
    pthread_mutex_t &mutex_;
};

// --- what was done, for the report; under piece_lock ---

struct Totals {
    Counts counts;
    std::uint64_t passes = 0;
    std::uint64_t retired = 0;
    std::uint64_t trimmed = 0;
};
constinit Totals totals;

std::uint64_t clock_ns(clockid_t clock) noexcept {
    timespec now{};
    ::clock_gettime(clock, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000U +
           static_cast<std::uint64_t>(now.tv_nsec);
}

// --- the pass ---

class Pass {
  public:
    Pass(const Settings &settings, const Wanted &wanted, upm_counts &sum) noexcept
        : settings_(settings), wanted_(wanted), sum_(sum), info_(upm::info()) {}

    int run() noexcept;

  private:
    bool go_on() noexcept;
    [[nodiscard]] bool takes(const Block &block) const noexcept;
    bool wants(Block &block) const noexcept;
    void advise_block(Block &block) noexcept;
    bool advise_range(char *addr, std::size_t len, std::size_t &offset, History &history,
                      const std::atomic<bool> *hands_off, std::uint32_t stack) noexcept;
    static int advise_piece(char *addr, std::size_t len, const std::atomic<bool> *hands_off,
                            Counts &counts) noexcept;
    void finish(History &history) noexcept;
    void advise_blocks() noexcept;
    void advise_rest() noexcept;
    void advise_heap(const Layout &layout) noexcept;
    void advise_region(const Mapping &mapping, History &history) noexcept;
    [[nodiscard]] bool eligible(const Mapping &mapping) const noexcept;

    const Settings &settings_;
    const Wanted &wanted_;
    upm_counts &sum_;
    const Info info_;
    int error_ = 0;
    bool hopeless_ = false; // no further call can succeed
    bool cut_short_ = false;
    bool postponed_ = false; // something that it looked at before was not due again
    std::uint64_t due_ = UINT64_MAX;
    std::uint64_t last_wall_ = now_ns();
    std::uint64_t last_cpu_ = others_cpu_ns();
    const Look began_{.wall_ns = last_wall_, .cpu_ns = last_cpu_};
};

// False: the program has something to do, or everything is over.
bool Pass::go_on() noexcept {
    if (hopeless_ || stopped.load())
        return false;
    if (!wanted_.interruptible)
        return true;
    const std::uint64_t wall = now_ns();
    const std::uint64_t cpu = others_cpu_ns();
    const bool busy =
        cpu > last_cpu_ && (cpu - last_cpu_) * kBusyShare > wall - last_wall_ + 50'000;
    last_wall_ = wall;
    last_cpu_ = cpu;
    cut_short_ = cut_short_ || busy;
    return !busy;
}

int Pass::advise_piece(char *addr, std::size_t len, const std::atomic<bool> *hands_off,
                       Counts &counts) noexcept {
    const Lock lock(piece_lock);
    if (hands_off != nullptr && hands_off->load())
        return ECANCELED;
    const Result<Counts> done = upm::advise(addr, len);
    counts = *done;
    totals.counts += *done;
    return done.error();
}

// Advises from `offset` on. True: it got to the end.
bool Pass::advise_range(char *addr, std::size_t len, std::size_t &offset, History &history,
                        const std::atomic<bool> *hands_off, std::uint32_t stack) noexcept {
    while (offset < len) {
        if (!go_on())
            return false;
        const std::size_t piece = std::min(kPieceBytes, len - offset);
        Counts counts;
        const int error = advise_piece(addr + offset, piece, hands_off, counts);
        history.add(counts);
        profile_merged(stack, (counts.merged + counts.zero) * kPageSize);
        profile_inserted(stack, counts.inserted * kPageSize);
        Counts sum;
        sum += sum_;
        sum += counts;
        sum_ = sum;
        if (error == EINTR)
            continue;
        if (error != 0 && error != ECANCELED && error != ENOMEM)
            error_ = error;
        hopeless_ = error == EOPNOTSUPP || error == EPERM || error == EBADF;
        if (error != 0)
            return hopeless_ ? false : (offset = len, true); // the rest is no better
        offset += piece;
    }
    return true;
}

void Pass::finish(History &history) noexcept {
    const bool before = history.retired();
    history.finish(now_ns(), info_.immediate == 0);
    const Lock lock(piece_lock);
    totals.retired += !before && history.retired() ? 1 : 0;
}

// A backend that maps over memory gets mappings of the program only if asked for.
bool Pass::takes(const Block &block) const noexcept {
    return block.own || !remaps || settings_.everything;
}

bool Pass::wants(Block &block) const noexcept {
    if (block.number < wanted_.mark || block.hands_off || !takes(block))
        return false;
    return block.resume_at != 0 || block.history.due(now_ns(), wanted_.forced);
}

void Pass::advise_block(Block &block) noexcept {
    if (block.state != State::kLive || !take_block(block))
        return;
    if (wants(block)) {
        block.advised = true;
        char *const addr = block.addr;
        const std::size_t len = block.len;
        while (block.resume_at < len && block.state == State::kBusy) {
            // One piece at a time: the block may be freed meanwhile.
            std::size_t end = block.resume_at;
            if (!advise_range(addr, std::min(len, end + kPieceBytes), end, block.history,
                              &block.hands_off, block.stack))
                break;
            block.resume_at = end;
        }
        if (block.resume_at >= len) {
            block.resume_at = 0;
            finish(block.history);
        }
    } else {
        postponed_ = postponed_ || (block.history.waits() && !block.hands_off && takes(block));
    }
    if (block.history.waits() && !block.hands_off && takes(block))
        due_ = std::min(due_, block.resume_at != 0 ? now_ns() : block.history.due_ns());
    release_block(block);
}

void Pass::advise_blocks() noexcept {
    const std::uint32_t count = block_count();
    for (std::uint32_t i = 0; i < count; ++i) {
        if (!go_on()) {
            due_ = std::min(due_, now_ns());
            return;
        }
        advise_block(block_at(i));
    }
}

// --- UPM_SCOPE=all ---

// Stacks are written all the time, and the kernel's own mappings are shared anyway.
bool Pass::eligible(const Mapping &mapping) const noexcept {
    if (mapping.shared || mapping.end - mapping.start < settings_.min_bytes)
        return false;
    if (mapping.file)
        return mapping.readable && info_.file_pages != 0;
    return mapping.readable && mapping.writable && !mapping.name.starts_with("[v") &&
           !mapping.name.starts_with("[stack");
}

struct Region {
    std::uintptr_t start = 0; // 0: empty
    std::uintptr_t end = 0;
    History history;
};

// By start, two places for each; what is crowded out is advised as if new.
constinit std::array<Region, 4096> regions;

Region &region_of(const Mapping &mapping) noexcept {
    const std::uint64_t hash = (mapping.start / kPageSize) * 0x9e3779b97f4a7c15U >> 52;
    Region *const first = &regions[hash % regions.size()];
    Region *const second = &regions[(hash + 1) % regions.size()];
    Region *const found = first->start == mapping.start || first->start == 0 ? first : second;
    if (found->start != mapping.start)
        *found = {.start = mapping.start, .end = mapping.end, .history = {}};
    if (found->end != mapping.end) { // it grew or shrank: look at it anew
        found->end = mapping.end;
        if (!found->history.retired())
            found->history = History();
    }
    return *found;
}

void Pass::advise_region(const Mapping &mapping, History &history) noexcept {
    if (history.due(now_ns(), wanted_.forced)) {
        std::size_t offset = 0;
        // NOLINTNEXTLINE(performance-no-int-to-ptr): an address of this process
        auto *const addr = reinterpret_cast<char *>(mapping.start);
        if (advise_range(addr, mapping.end - mapping.start, offset, history, nullptr, 0))
            finish(history);
    } else {
        postponed_ = postponed_ || history.waits();
    }
    if (history.waits())
        due_ = std::min(due_, history.due_ns());
}

void Pass::advise_rest() noexcept {
    MapsReader maps("/proc/self/maps");
    Mapping mapping;
    while (go_on() && maps.next(mapping)) {
        if (eligible(mapping))
            advise_region(mapping, region_of(mapping).history);
    }
}

// The store does not take the heap of an allocator that it does not know. glibc's never
// takes for zero what it gave back by madvise, and it shrinks the heap in malloc_trim,
// which is hooked, and in free, which is told here not to do it.
bool heap_is_glibcs() noexcept {
    Dl_info info{};
    const bool known = ::dladdr(reinterpret_cast<void *>(real().malloc), &info) != 0 &&
                       std::strstr(info.dli_fname, "/libc.so.6") != nullptr;
    return known && ::mallopt(M_TRIM_THRESHOLD, -1) == 1;
}

// Its history goes on when it grows, which it may do for ever.
void Pass::advise_heap(const Layout &layout) noexcept {
    static constinit History history;
    Mapping heap;
    heap.start = layout.heap_start();
    heap.end = layout.heap_end();
    if (heap.end - heap.start >= settings_.min_bytes && heap.end != 0 && go_on())
        advise_region(heap, history);
}

// Devices write into memory that a process has pinned, and go on writing into the
// old pages when other ones are mapped in their place. The kernel module leaves
// pinned pages out; a backend that maps cannot see them.
bool devices_in_use() noexcept {
    constexpr std::string_view kDevices[] = {"/dev/nvidia",      "/dev/kfd",
                                             "/dev/infiniband",  "/dev/vfio",
                                             "anon_inode:[vfio", "anon_inode:[io_uring"};
    MapsReader maps("/proc/self/maps");
    Mapping mapping;
    while (maps.next(mapping))
        for (const std::string_view device : kDevices)
            if (mapping.name.starts_with(device))
                return true;
    return false;
}

bool known_not_to_remap(std::string_view backend) noexcept {
    return backend == "kmod" || backend == "ksm" || backend == "none";
}

int Pass::run() noexcept {
    if (std::strcmp(info_.backend, "none") == 0)
        return EOPNOTSUPP;
    remaps = !known_not_to_remap(info_.backend);
    const std::uint64_t trimmed = trim(wanted_.forced);
    {
        const Lock lock(piece_lock);
        ++totals.passes;
        totals.trimmed += trimmed;
    }
    if (remaps && devices_in_use())
        return EBUSY;
    static const bool heap = settings_.everything && remaps && heap_is_glibcs();
    std::optional<Layout> layout;
    if (remaps)
        layout.emplace(heap);
    advise_blocks();
    if (settings_.everything && wanted_.mark == 0 && !remaps)
        advise_rest();
    if (heap && wanted_.mark == 0)
        advise_heap(*layout);
    next_due = due_;
    if (!postponed_ && !cut_short_)
        last_look = began_;
    return cut_short_ && !hopeless_ ? EINTR : error_;
}

} // namespace

std::uint64_t now_ns() noexcept {
    return clock_ns(CLOCK_MONOTONIC);
}

std::uint64_t others_cpu_ns() noexcept {
    const std::uint64_t own = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    const std::uint64_t all = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
    return all > own ? all - own : 0;
}

int run_pass(const Settings &settings, const Wanted &wanted, upm_counts &sum) noexcept {
    const Guard guard;
    const Lock lock(pass_lock);
    sum = {};
    return Pass(settings, wanted, sum).run();
}

std::uint64_t next_pass_ns() noexcept {
    return next_due.load();
}

bool worked_since_last_look() noexcept {
    const Lock lock(pass_lock);
    const std::uint64_t idly = (now_ns() - last_look.wall_ns) / kIdleShare;
    return others_cpu_ns() > last_look.cpu_ns + kAllowedNs + idly;
}

void stop_passes() noexcept {
    stopped = true;
    const Guard guard;
    const Lock lock(piece_lock);
}

bool passes_stopped() noexcept {
    return stopped.load();
}

bool backend_remaps() noexcept {
    return remaps.load(std::memory_order_relaxed);
}

void note_advised(void *addr, std::size_t len) noexcept {
    const Guard guard;
    if (!known_not_to_remap(upm::info().backend))
        remaps = true;
    for_each_block(addr, len, [](Block &block) {
        if (block.own)
            block.advised = true;
    });
}

NoAdvise::NoAdvise() noexcept {
    ::pthread_mutex_lock(&piece_lock);
}

NoAdvise::~NoAdvise() {
    ::pthread_mutex_unlock(&piece_lock);
}

void pass_before_fork() noexcept {
    ::pthread_mutex_lock(&piece_lock);
}

void pass_after_fork_parent() noexcept {
    ::pthread_mutex_unlock(&piece_lock);
}

// Another thread may have been in a pass: its lock is made anew.
void pass_after_fork_child() noexcept {
    totals = {};
    last_look = {}; // the child's clock begins anew
    pass_lock = PTHREAD_MUTEX_INITIALIZER;
    piece_lock = PTHREAD_MUTEX_INITIALIZER;
}

void fill_pass_report(upm_hook_stats &report) noexcept {
    const Guard guard;
    const Lock lock(piece_lock);
    report.passes = totals.passes;
    report.retired = totals.retired;
    report.trimmed_bytes = totals.trimmed;
    report.counts = totals.counts;
}

} // namespace upm::hook
