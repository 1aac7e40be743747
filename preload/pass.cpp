// SPDX-License-Identifier: MIT
#include "preload/pass.hpp"

#include "libupm/api/library.hpp"
#include "libupm/mm/aligned_range.hpp"
#include "libupm/mm/layout.hpp"
#include "libupm/mm/limits.hpp"
#include "preload/blocks.hpp"
#include "preload/changes.hpp"
#include "preload/late.hpp"
#include "preload/loads.hpp"
#include "preload/local.hpp"
#include "preload/outsiders.hpp"
#include "preload/page.hpp"
#include "preload/real.hpp"
#include "preload/stacks.hpp"
#include "preload/trim.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <dlfcn.h>
#include <malloc.h>
#include <optional>
#include <string_view>
#include <sys/mman.h>
#include <unistd.h>
#include <upm/upm.hpp>

namespace upm::hook {

namespace {

// A piece at a time, so that a program that wants to go on waits some milliseconds at
// most, and that what it opens is seen before the next one.
constexpr std::size_t kPieceBytes = 8UL << 20;
// The program is busy again when it uses more than a fifth of a processor.
constexpr std::uint64_t kBusyShare = 5;
// What it may use and still count as unchanged since the last look: programs that wait
// wake up once in a while.
constexpr std::uint64_t kAllowedNs = 2'000'000;
constexpr std::uint64_t kIdleShare = 1000;

// How long to wait while somebody else may write to the memory.
constexpr std::uint64_t kOutsidersNs = 1'000'000'000;

constinit std::atomic<std::uint64_t> next_due{UINT64_MAX};
// When the last pass began that left nothing for later; under Local::pass.
struct Look {
    std::uint64_t wall_ns = 0;
    std::uint64_t cpu_ns = 0;
};
constinit Look last_look;

// --- what was done, for the report; under Local::totals ---

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
    [[nodiscard]] bool waits(const Block &block) const noexcept;
    bool wants(Block &block) const noexcept;
    void advise_block(Block &block) noexcept;
    bool advise_range(char *addr, std::size_t len, std::size_t &offset, History &history,
                      const Block *block) noexcept;
    int advise_piece(const char *addr, std::size_t len, const Block *block,
                     Counts &counts) noexcept;
    [[nodiscard]] int submit(Request request, const Block *block, Counts &counts) const noexcept;
    void advise_late() noexcept;
    void share_late(LatePart &part) noexcept;
    bool share_late_piece(int fd, const LatePart &part, std::size_t len) noexcept;
    void finish(History &history) noexcept;
    void advise_blocks() noexcept;
    void advise_rest() noexcept;
    void advise_heap() noexcept;
    void advise_region(const Vma &mapping, History &history) noexcept;
    [[nodiscard]] bool eligible(const Vma &mapping, std::string_view name) const noexcept;

    const Settings &settings_;
    const Wanted &wanted_;
    upm_counts &sum_;
    const Info info_;
    const bool restores_ = info_.restores != 0;
    std::optional<Layout> layout_; // if it restores; what is newer than this block waits:
    std::uint64_t newer_ = UINT64_MAX;
    int error_ = 0;
    bool hopeless_ = false;  // no further call can succeed
    bool outsiders_ = false; // nor can it now
    bool cut_short_ = false;
    bool known_only_ = false; // nothing is to be given to others
    bool postponed_ = false;  // something that it looked at before was not due again
    std::uint64_t due_ = UINT64_MAX;
    std::uint64_t last_wall_ = now_ns();
    std::uint64_t last_cpu_ = others_cpu_ns();
    const Look began_{.wall_ns = last_wall_, .cpu_ns = last_cpu_};
};

// False: the program has something to do, or everything is over.
bool Pass::go_on() noexcept {
    if (hopeless_ || outsiders_ || all_pieces_ended())
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

int Pass::submit(Request request, const Block *block, Counts &counts) const noexcept {
    const EntryGuard guard;
    const UnderWay under_way;
    if (!restores_)
        return -engine().submit(request, counts);
    Piece piece(block, reinterpret_cast<char *>(request.addr), request.len);
    request.known_only = known_only_;
    request.layout = &*layout_;
    request.gate = &piece;
    return -engine().submit(request, counts);
}

int Pass::advise_piece(const char *addr, std::size_t len, const Block *block,
                       Counts &counts) noexcept {
    if (restores_ && (!far_from_limits() || outsiders_may_write()))
        return EBUSY;
    const Request request{.addr = reinterpret_cast<std::uintptr_t>(addr), .len = len};
    const int error = submit(request, block, counts);
    const Locked exclusive(local().totals);
    totals.counts += counts;
    return error;
}

// Advises from `offset` on. True: it got to the end.
bool Pass::advise_range(char *addr, std::size_t len, std::size_t &offset, History &history,
                        const Block *block) noexcept {
    const std::uint32_t stack = block != nullptr ? block->stack : 0;
    while (offset < len) {
        if (!go_on())
            return false;
        const std::size_t piece = std::min(kPieceBytes, len - offset);
        Counts counts;
        const int error = advise_piece(addr + offset, piece, block, counts);
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
        outsiders_ = error == EBUSY;
        if (hopeless_ || outsiders_)
            return false;
        offset = error != 0 ? len : offset + piece; // the rest is no better
    }
    return true;
}

void Pass::finish(History &history) noexcept {
    const bool before = history.retired();
    history.finish(now_ns(), info_.immediate == 0);
    const Locked exclusive(local().totals);
    totals.retired += !before && history.retired() ? 1 : 0;
}

// A backend that maps over memory gets mappings of the program only if asked for, and
// nothing to which the program did something special.
bool Pass::takes(const Block &block) const noexcept {
    return !restores_ || (!block.hands_off && (block.own || settings_.everything));
}

bool Pass::waits(const Block &block) const noexcept {
    return block.history.waits() && takes(block);
}

bool Pass::wants(Block &block) const noexcept {
    if (block.number < wanted_.mark || block.number >= newer_ || !takes(block))
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
            if (!advise_range(addr, std::min(len, end + kPieceBytes), end, block.history, &block))
                break;
            block.resume_at = end;
        }
        if (block.resume_at >= len) {
            block.resume_at = 0;
            finish(block.history);
        }
    } else {
        postponed_ = postponed_ || waits(block);
    }
    if (waits(block))
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

// --- what came too late to share on load ---

// Remembers only that there was something.
class AnyLate final : public LateParts {
  public:
    void add(const std::byte * /*at*/, std::size_t /*size*/) noexcept override { any_ = true; }
    [[nodiscard]] bool any() const noexcept { return any_; }

  private:
    bool any_ = false;
};

// Has the broker make the content known, by reading the file once more, in no hurry, and
// merges with what is known then. What the program wrote there since is in no file, so it is
// given to nobody. False: the broker was late once more, or the program came first.
bool Pass::share_late_piece(int fd, const LatePart &part, std::size_t len) noexcept {
    AlignedRange range;
    if (!range.reserve(len + kHugePage))
        return false;
    // Laid out as the block is, so that huge pages fit.
    std::byte *const memory = range.data() + reinterpret_cast<std::uintptr_t>(part.at) % kHugePage;
    if (real().mmap(memory, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
                    -1, 0) == MAP_FAILED)
        return false;
    AnyLate late;
    upm_load_counts loaded{};
    const UnderWay under_way;
    (void)engine().load({.fd = fd,
                         .offset = static_cast<off_t>(part.offset),
                         .into = memory,
                         .len = len,
                         .flags = UPM_LOAD_ORDINARY,
                         .patient = true,
                         .late = &late},
                        loaded);
    if (loaded.shared + loaded.made == 0)
        return !late.any();
    History unused;
    std::size_t done = 0;
    const bool all = advise_range(part.at, len, done, unused, part.block);
    local().unmapped = true; // by the end of this
    return all && !late.any();
}

// Pre: the block is busy, and it is the one that the part is of.
void Pass::share_late(LatePart &part) noexcept {
    Block &block = *part.block;
    const int fd = open_late(part);
    if (fd < 0)
        return;
    block.advised = true; // before anything is mapped there: free() asks for it
    layout_.emplace(false);
    while (part.len != 0 && takes(block) && block.state == State::kBusy && go_on()) {
        const std::size_t over = reinterpret_cast<std::uintptr_t>(part.at) % kPieceBytes;
        const std::size_t piece = std::min(kPieceBytes - over, part.len);
        if (!share_late_piece(fd, part, piece)) {
            if (!cut_short_ && !outsiders_ && !hopeless_)
                put_back_in_vain(part, now_ns());
            break;
        }
        part.at += piece;
        part.offset += piece;
        part.len -= piece;
        part.tries = 0;
    }
    ::close(fd);
    if (part.len != 0 && cut_short_)
        put_back_late(part, 0);
    else if (part.len != 0 && outsiders_)
        put_back_late(part, now_ns() + kOutsidersNs);
}

// Only where nothing can be written to unseen while it is compared.
void Pass::advise_late() noexcept {
    if (info_.quiescent != 0 || info_.load != kLoadsWhileReading) {
        forget_late();
        return;
    }
    known_only_ = true;
    LatePart part;
    while (go_on() && take_late(part, began_.wall_ns)) {
        Block &block = *part.block;
        if (block.number != part.number || !take_block(block))
            continue;
        const char *const start = block.addr;
        if (block.number == part.number && part.at >= start &&
            part.len <= block.len - static_cast<std::size_t>(part.at - start))
            share_late(part);
        release_block(block);
    }
    known_only_ = false;
}

// --- UPM_SCOPE=all ---

// Stacks are written all the time, and the kernel's own mappings are shared anyway.
bool Pass::eligible(const Vma &mapping, std::string_view name) const noexcept {
    if ((mapping.flags & kVmaShared) != 0 || mapping.end - mapping.start < settings_.min_bytes ||
        (mapping.protection & PROT_READ) == 0)
        return false;
    if ((mapping.flags & kVmaFile) != 0)
        return info_.file_pages != 0;
    return (mapping.protection & PROT_WRITE) != 0 && !name.starts_with("[v") &&
           !name.starts_with("[stack");
}

struct Region {
    std::uintptr_t start = 0; // 0: empty
    std::uintptr_t end = 0;
    History history;
};

// By start, two places for each; what is crowded out is advised as if new.
constinit std::array<Region, 4096> regions;

Region &region_of(const Vma &mapping) noexcept {
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

void Pass::advise_region(const Vma &mapping, History &history) noexcept {
    if (history.due(now_ns(), wanted_.forced)) {
        std::size_t offset = 0;
        // NOLINTNEXTLINE(performance-no-int-to-ptr): an address of this process
        auto *const addr = reinterpret_cast<char *>(mapping.start);
        if (advise_range(addr, mapping.end - mapping.start, offset, history, nullptr))
            finish(history);
    } else {
        postponed_ = postponed_ || history.waits();
    }
    if (history.waits())
        due_ = std::min(due_, history.due_ns());
}

void Pass::advise_rest() noexcept {
    SmapsReader maps("/proc/self/maps");
    std::string_view name;
    for (Vma mapping; go_on() && maps.next_header(mapping, &name);)
        if (eligible(mapping, name))
            advise_region(mapping, region_of(mapping).history);
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
void Pass::advise_heap() noexcept {
    static constinit History history;
    Vma heap;
    heap.start = layout_->heap_start();
    heap.end = layout_->heap_end();
    set_advised_heap(heap.start, heap.end);
    if (heap.end - heap.start >= settings_.min_bytes && heap.end != 0 && go_on())
        advise_region(heap, history);
}

int Pass::run() noexcept {
    if (std::strcmp(info_.backend, "none") == 0)
        return EOPNOTSUPP;
    set_may_restore(maps_over_blocks(info_));
    const std::uint64_t trimmed = trim(wanted_.forced);
    {
        const Locked exclusive(local().totals);
        ++totals.passes;
        totals.trimmed += trimmed;
    }
    if (trimmed != 0)
        engine().trimmed(trimmed);
    if (restores_ && settings_.loads && !wanted_.forced) {
        advise_late();
        next_due = UINT64_MAX;
        last_look = began_;
        return cut_short_ ? EINTR : 0; // of what loads do not cover, nobody asked for more
    }
    static const bool heap = settings_.everything && restores_ && heap_is_glibcs();
    if (restores_) {
        newer_ = next_block_number();
        layout_.emplace(heap);
    }
    advise_blocks();
    if (settings_.everything && wanted_.mark == 0 && !restores_)
        advise_rest();
    if (heap && wanted_.mark == 0)
        advise_heap();
    next_due = outsiders_ ? std::max(due_, now_ns() + kOutsidersNs) : due_;
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
    const Locked exclusive(local().pass);
    sum = {};
    return Pass(settings, wanted, sum).run();
}

std::uint64_t next_pass_ns() noexcept {
    return next_due.load();
}

bool worked_since_last_look() noexcept {
    const Locked exclusive(local().pass);
    const std::uint64_t idly = (now_ns() - last_look.wall_ns) / kIdleShare;
    return others_cpu_ns() > last_look.cpu_ns + kAllowedNs + idly;
}

void note_advised(void *addr, std::size_t len) noexcept {
    const Guard guard;
    set_may_restore(maps_over_blocks(upm::info()));
    for_each_block(addr, len, [](Block &block) {
        if (block.own)
            block.advised = true;
    });
}

void pass_after_fork_child() noexcept {
    totals = {};
    last_look = {}; // the child's clock begins anew
}

void fill_pass_report(upm_hook_stats &report) noexcept {
    const Locked exclusive(local().totals);
    report.passes = totals.passes;
    report.retired = totals.retired;
    report.trimmed_bytes = totals.trimmed;
    report.counts = totals.counts;
}

} // namespace upm::hook
