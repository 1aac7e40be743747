// SPDX-License-Identifier: MIT
#include "libupm/store/load.hpp"

#include "libupm/base/plain_read.hpp"
#include "libupm/base/sharable_file.hpp"
#include "libupm/base/system.hpp"
#include "libupm/mm/limits.hpp"
#include "libupm/mm/vma_reader.hpp"
#include "libupm/store/overlay.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>

namespace upm::store {

namespace {

// What is read and compared in one go: it stays in a processor's second cache.
constexpr std::size_t kPiece = Pace::kPiece;
// The same in small loads, for which finding memory takes as long as comparing.
constexpr std::size_t kSmallPiece = 64UL << 10U;
// So many pieces that differ from a segment end the comparison with it; then another one
// may be found for the rest of the window, so many times.
constexpr unsigned kMostDiffering = 4;
constexpr unsigned kMostSegments = 3;
// Memory that is not known to be ordinary is looked up in smaps only for this much: the
// kernel walks every page of the process for that.
constexpr std::size_t kWorthSmaps = 64UL << 20U;
constexpr std::size_t kLarge = 64UL << 20U;
// Less came late: not worth a word to the broker.
constexpr std::size_t kWorthTelling = 1UL << 20U;
static_assert(kMaxPages * 4096UL % kHugePage == 0);

std::uint64_t thread_cpu_ns() noexcept {
    timespec time{};
    (void)::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000 +
           static_cast<std::uint64_t>(time.tv_nsec);
}

} // namespace

// A mapping of its own: nothing here may take memory from the program's heap. Pages come when they
// are needed: a small load that shares nothing needs three.
struct Load::Scratch {
    std::byte beginning[Sample::kRoom]; // of a window: what its sample left
    std::byte packet[kMaxPacket];
    std::uint64_t entries[kMaxPages]; // of the page map
    std::byte piece[kPiece];
};

Load::Load(const Finder::Tools &tools, RunBudget &budget, const DomainKey &domain,
           const LoadCall &call, upm_load_counts &counts) noexcept
    : luck_(tools.luck), budget_(budget), call_(call), counts_(counts), ordinary_(call.ordinary),
      piece_(call.len <= Finder::kSmall ? kSmallPiece : kPiece),
      finder_(tools, domain, call.fd, call.len, pace_, counts.made) {}

Load::~Load() {
    for (; ahead_ != 0; --ahead_) {
        finder_.drop(windows_[first_]);
        first_ = (first_ + 1) % Finder::kDepth;
    }
    finder_.end();
    if (scratch_ != nullptr)
        (void)::munmap(scratch_, sizeof(Scratch));
}

// Returns true if something can be shared.
bool Load::begin() noexcept {
    if (luck_.skips_all(call_.len) || !far_from_limits()) {
        if (call_.late != nullptr)
            call_.late->skipped();
        return false;
    }
    if (pagemap_.error() != 0)
        return false;
    talk_ = finder_.begin(call_.patient);
    if (!talk_)
        return false;
    ordinary_ = ordinary_ || finds_ordinary();
    if (!ordinary_)
        return false;
    if (!make_scratch())
        return false;
    pace_.begin(call_.patient);
    return true;
}

// Of memory of which the caller does not know. Apart, since the reader of procfs takes much of a
// stack: threads that read may have little.
bool Load::finds_ordinary() const noexcept {
    const auto start = reinterpret_cast<std::uint64_t>(call_.into);
    const std::uint64_t end = start + call_.len;
    Vma vma;
    bool ordinary = find_plain_vma(start, end, vma);
    if (!ordinary && call_.len >= kWorthSmaps) {
        SmapsReader smaps(own_smaps());
        while (!ordinary && smaps.next(vma) && vma.start <= start)
            ordinary = vma.end >= end && vma.flags == 0;
    }
    return ordinary && vma.protection == (PROT_READ | PROT_WRITE);
}

bool Load::make_scratch() noexcept {
    void *const memory = ::mmap(nullptr, sizeof(Scratch), PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return false;
    (void)::madvise(memory, sizeof(Scratch), MADV_DONTFORK); // no child has a use for it
    scratch_ = static_cast<Scratch *>(memory);
    finder_.use({.page = scratch_->beginning, .packet = scratch_->packet});
    return true;
}

Load::Rest Load::whole_pages() const noexcept {
    const std::uint64_t mask = page_size() - 1;
    const std::uint64_t size = sharable_size(call_.fd);
    const std::size_t there = static_cast<std::size_t>(
        std::min<std::uint64_t>(call_.len, size - std::min(size, call_.offset)));
    const auto start = reinterpret_cast<std::uint64_t>(call_.into);
    const std::size_t head = -start & mask;
    const std::uint64_t end = (start + there) & ~mask;
    const std::size_t all = end - std::min(end, start + head);
    // Two windows at least, so that the broker makes one while the other is compared.
    const std::size_t half = (all / 2 + kHugePage - 1) & ~(kHugePage - 1);
    return {.at = call_.into + head,
            .offset = call_.offset + head,
            .size = all,
            .most = std::clamp(half, kHugePage, kMaxPages * page_size())};
}

// Windows end where huge pages may begin, so that none is cut.
std::size_t Load::window_size(const Rest &rest) noexcept {
    const std::size_t huge = reinterpret_cast<std::uintptr_t>(rest.at) % kHugePage;
    return std::min(rest.size, huge != 0 ? kHugePage - huge : rest.most);
}

void Load::tell() noexcept {
    const Rest whole = whole_pages();
    if (whole.size < kWorthTelling || !finder_.begin(true) || !make_scratch())
        return;
    pace_.begin(true);
    finder_.connect_to_tell();
    finder_.tell_late(whole.at, whole.offset, whole.size);
}

// A look at the first window that a load would have.
bool Load::wanted() noexcept {
    const Rest whole = whole_pages();
    if (whole.size < kLeast || !finder_.begin(false) || !make_scratch())
        return false;
    pace_.begin(false);
    finder_.only_look();
    LoadWindow window;
    window.at = whole.at;
    window.offset = whole.offset;
    window.size = window_size(whole);
    finder_.ask(window);
    finder_.wait(window);
    const bool shared = window.segment.fd >= 0;
    Finder::forget(window);
    return shared || finder_.others_want();
}

std::int64_t Load::run() noexcept {
    const Rest whole = whole_pages();
    if (whole.size < kLeast)
        return copy(call_.into, call_.offset, call_.len);
    const auto head = static_cast<std::size_t>(whole.at - call_.into);
    if (!begin()) {
        if (!talk_)
            note_late(whole.at, whole.size);
        tell_broker(whole);
        return copy(call_.into, call_.offset, call_.len);
    }
    // The whole pages first: a page that is touched beside them may bring a huge page,
    // and then they exist.
    const std::int64_t middle = share(whole);
    const std::int64_t before = head != 0 ? copy(call_.into, call_.offset, head) : 0;
    if (before < static_cast<std::int64_t>(head) ||
        middle < static_cast<std::int64_t>(whole.size)) {
        // Shorter than it was, or an error: what pread(2) would have told.
        const std::int64_t got = before < static_cast<std::int64_t>(head) ? before
                                 : middle >= 0                            ? before + middle
                                 : before > 0                             ? before
                                                                          : middle;
        counts_ = {};
        counts_.copied = static_cast<std::uint64_t>(std::max<std::int64_t>(got, 0));
        return got;
    }
    if (!absent_ && call_.late != nullptr)
        call_.late->existed();
    tell_broker(whole);
    const std::size_t done = head + static_cast<std::size_t>(middle);
    const std::int64_t after = copy(call_.into + done, call_.offset + done, call_.len - done);
    return static_cast<std::int64_t>(done) + std::max<std::int64_t>(after, 0);
}

// Has the kernel find memory for a part at once: in a read it takes the lock of the process's
// mappings again for each page, which many threads that read at one time wait for. Who forks
// waits for it, too: so it is no more than a part.
void Load::populate(std::byte *at, std::size_t size) const noexcept {
    const std::uint64_t mask = page_size() - 1;
    const auto start = reinterpret_cast<std::uint64_t>(at);
    const std::uint64_t first = (start + mask) & ~mask;
    const std::uint64_t end = (start + size) & ~mask;
    if (ordinary_ && end >= first + kLeast)
        (void)::madvise(at + (first - start), end - first, MADV_POPULATE_WRITE);
}

// A plain read, counted; `absent`: of memory that does not exist yet. Where it exists, to look for
// it takes an eighth of the time that the read takes.
std::int64_t Load::copy(std::byte *at, std::uint64_t offset, std::size_t size,
                        bool absent) noexcept {
    std::size_t done = 0;
    while (done < size) {
        const std::size_t part = absent ? std::min(size - done, kPiece) : size - done;
        if (absent)
            populate(at + done, part);
        const std::int64_t got = plain_read(call_.fd, offset + done, at + done, part);
        if (got < 0 && done == 0)
            return got;
        done += static_cast<std::size_t>(std::max<std::int64_t>(got, 0));
        if (got < static_cast<std::int64_t>(part))
            break;
    }
    counts_.copied += done;
    return static_cast<std::int64_t>(done);
}

// The rest of a window that no segment has. What was too late may come to share another time.
std::int64_t Load::copy_window(const LoadWindow &window) noexcept {
    if (window.late)
        note_late(window.at, window.size);
    const bool alone = window.absent && ahead_at_rest();
    const std::uint64_t start = now_ns();
    const std::int64_t got = copy(window.at, window.offset, window.size, window.absent);
    if (alone && got == static_cast<std::int64_t>(window.size))
        pace_.plain(window.size, now_ns() - start);
    return got;
}

// So that what was late is there for others. A memory of its own where there is none yet.
void Load::tell_broker(const Rest &part) noexcept {
    if (late_ < kWorthTelling || call_.patient || (scratch_ == nullptr && !ordinary_))
        return;
    if (scratch_ == nullptr && !make_scratch())
        return;
    finder_.tell_late(part.at, part.offset, part.size);
}

void Load::note_late(const std::byte *at, std::size_t size) noexcept {
    late_ += size;
    if (late_ >= kWorthTelling)
        finder_.expect_to_tell();
    if (call_.late != nullptr)
        call_.late->add(at, size);
}

// Several windows are asked for before the first of them is read.
std::int64_t Load::share(Rest rest) noexcept {
    // More connections than two are worth it for large loads only.
    const std::size_t depth = rest.size < kLarge ? 2 : Finder::kDepth;
    std::size_t done = 0;
    for (;;) {
        for (; ahead_ < depth && rest.size != 0; ++ahead_)
            cut(rest, windows_[(first_ + ahead_) % Finder::kDepth]);
        if (ahead_ == 0)
            return static_cast<std::int64_t>(done);
        for (std::size_t i = 0; i < ahead_; ++i)
            finder_.advance(windows_[(first_ + i) % Finder::kDepth]);
        LoadWindow &window = windows_[first_];
        first_ = (first_ + 1) % Finder::kDepth;
        --ahead_;
        const std::size_t wanted = window.size;
        const std::int64_t got = finish(window);
        if (got < 0 && done == 0)
            return got;
        done += static_cast<std::size_t>(std::max<std::int64_t>(got, 0));
        if (got < static_cast<std::int64_t>(wanted))
            return static_cast<std::int64_t>(done);
    }
}

// Makes a window of the beginning of the rest, and asks about it.
void Load::cut(Rest &rest, LoadWindow &window) noexcept {
    window = {};
    window.at = rest.at;
    window.offset = rest.offset;
    window.turn = (first_ + ahead_) % Finder::kDepth;
    window.size = alike(rest.at, window_size(rest), window.absent);
    absent_ = absent_ || window.absent;
    rest.at += window.size;
    rest.offset += window.size;
    rest.size -= window.size;
    if (window.absent && window.size >= kLeast)
        ask(window);
}

void Load::ask(LoadWindow &window) noexcept {
    beginning_ = {};
    finder_.ask(window);
    if (window.state == LoadWindow::State::kAsked)
        beginning_ = {.offset = window.offset, .size = window.sample.begun()};
}

// Returns true if the broker does nothing for this load.
bool Load::ahead_at_rest() noexcept {
    for (std::size_t i = 0; i < ahead_; ++i)
        if (windows_[(first_ + i) % Finder::kDepth].state != LoadWindow::State::kNone)
            return false;
    return finder_.at_rest();
}

// How many bytes from there on are pages that all exist, or that all do not: `absent`. Pre: no
// more than kMaxPages.
std::size_t Load::alike(const std::byte *at, std::size_t size, bool &absent) noexcept {
    const auto pages = static_cast<std::uint32_t>(size / page_size());
    if (pagemap_.read(reinterpret_cast<std::uint64_t>(at), pages, scratch_->entries) != 0) {
        absent = false;
        return size;
    }
    const auto exists = [](std::uint64_t entry) {
        return (entry & (kPagePresent | kPageSwapped)) != 0;
    };
    absent = !exists(scratch_->entries[0]);
    std::uint32_t same = 1;
    while (same < pages && exists(scratch_->entries[same]) != absent)
        ++same;
    return same * page_size();
}

bool Load::absent(const std::byte *at, std::size_t size) noexcept {
    const std::size_t most = kMaxPages * page_size();
    bool none = false;
    for (std::size_t done = 0; done < size;) {
        done += alike(at + done, std::min(size - done, most), none);
        if (!none)
            return false;
    }
    return true;
}

// Shares or copies all of a window. Returns the bytes read, or -errno if that is none.
std::int64_t Load::finish(LoadWindow &window) noexcept {
    std::size_t done = 0;
    const auto result = [&](std::int64_t got) {
        return got < 0 && done == 0
                   ? got
                   : static_cast<std::int64_t>(done) + std::max<std::int64_t>(got, 0);
    };
    for (unsigned segments = 0;;) {
        finder_.wait(window);
        if (window.segment.fd < 0)
            return result(copy_window(window));
        std::size_t covered =
            std::min(window.size, (window.segment.pages - window.place.page) * page_size());
        bool differs = false;
        const std::int64_t got = compare_and_map(window, covered, differs);
        Finder::forget(window);
        if (differs && got > 0)
            covered = static_cast<std::size_t>(got);
        if (got < 0 || static_cast<std::size_t>(got) < covered || covered == window.size)
            return result(got);
        // The segment ends before the window does, or is another one from here on: the
        // rest may be in a further one.
        done += covered;
        window.at += covered;
        window.offset += covered;
        window.size -= covered;
        window.made = false;
        window.late = false;
        if (differs)
            window.except = window.place.segment;
        segments += differs ? 1 : 0;
        if (window.size >= kLeast && segments < kMostSegments)
            ask(window);
    }
}

// Finds memory for the pieces at once, which many threads that load wait less for. That belongs to
// what reading the first of them takes: a plain read finds memory, too.
void Load::prepare_piece() noexcept {
    if (std::exchange(prepared_, true))
        return;
    const std::uint64_t start = now_ns();
    (void)::madvise(scratch_->piece, piece_, MADV_POPULATE_WRITE);
    pace_.prepared(now_ns() - start);
}

// Returns true if the file's bytes are those of the segment. What the sample has read needs not be
// read again.
bool Load::same(const LoadWindow &window, const std::byte *view, std::size_t at,
                std::size_t size) noexcept {
    const std::uint64_t offset = window.offset + at;
    const std::size_t known = offset == beginning_.offset ? std::min(size, beginning_.size) : 0;
    const std::uint64_t start = now_ns();
    if (plain_read(call_.fd, offset + known, scratch_->piece, size - known) !=
        static_cast<std::int64_t>(size - known))
        return false;
    if (size - known == kPiece)
        pace_.read(now_ns() - start, std::exchange(fresh_, false));
    return std::memcmp(scratch_->beginning, view + at, known) == 0 &&
           std::memcmp(scratch_->piece, view + at + known, size - known) == 0;
}

// Returns the bytes read from the beginning of the window, fewer than `size` if the file
// ends or, with `differs`, if the segment is too different to go on with it.
std::int64_t Load::compare_and_map(LoadWindow &window, std::size_t size, bool &differs) noexcept {
    if (!view_ && !view_.reserve(kMaxPages * page_size() + kHugePage))
        return copy(window.at, window.offset, size);
    std::byte *const view = view_.data() + reinterpret_cast<std::uintptr_t>(window.at) % kHugePage;
    const std::uint64_t start = now_ns();
    const std::uint64_t cpu = thread_cpu_ns();
    if (::mmap(view, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, window.segment.fd,
               static_cast<off_t>(window.place.page * page_size())) == MAP_FAILED)
        return copy(window.at, window.offset, size);
    (void)::madvise(view, size, MADV_POPULATE_READ);
    prepare_piece();
    std::size_t equal = 0; // where the bytes that are equal and not mapped yet begin
    std::size_t at = 0;
    unsigned differing = 0;
    const auto flush = [&]() -> bool {
        const bool good = equal == at || map_run(window, equal, at) ||
                          copy(window.at + equal, window.offset + equal, at - equal) ==
                              static_cast<std::int64_t>(at - equal);
        if (good)
            equal = at;
        return good;
    };
    while (at < size && differing < kMostDiffering) {
        const std::size_t wanted = std::min(piece_, size - at);
        if (same(window, view, at, wanted)) {
            at += wanted;
            continue;
        }
        if (!flush())
            return static_cast<std::int64_t>(equal);
        const std::int64_t got = copy(window.at + at, window.offset + at, wanted);
        if (got < static_cast<std::int64_t>(wanted))
            return at == 0 ? got : static_cast<std::int64_t>(at) + std::max<std::int64_t>(got, 0);
        at += wanted;
        equal = at;
        ++differing;
    }
    pace_.worked(now_ns() - start, thread_cpu_ns() - cpu);
    differs = at < size;
    return flush() ? static_cast<std::int64_t>(at) : static_cast<std::int64_t>(equal);
}

// Maps the view's bytes from `start` to `end` in place of pages that do not exist. False:
// nothing has changed.
bool Load::map_run(const LoadWindow &window, std::size_t start, std::size_t end) noexcept {
    const std::size_t size = end - start;
    std::byte *const view = view_.data() + reinterpret_cast<std::uintptr_t>(window.at) % kHugePage;
    if (call_.gate != nullptr && !call_.gate->enter())
        return false;
    const bool mapped = absent(window.at + start, size) &&
                        budget_.afford(static_cast<std::uint32_t>(size / page_size())) &&
                        map_over({.at = reinterpret_cast<std::uint64_t>(window.at + start),
                                  .size = size,
                                  .fd = window.segment.fd,
                                  .offset = window.place.page * page_size() + start,
                                  .protection = PROT_READ | PROT_WRITE,
                                  .view = view + start});
    if (call_.gate != nullptr)
        (void)call_.gate->leave();
    if (!mapped)
        return false;
    (window.made ? counts_.made : counts_.shared) += size;
    finder_.mapped(window, size);
    return true;
}

} // namespace upm::store
