// SPDX-License-Identifier: MIT
#include "libupm/store/load.hpp"

#include "libupm/base/plain_read.hpp"
#include "libupm/base/sharable_file.hpp"
#include "libupm/base/system.hpp"
#include "libupm/mm/vma_reader.hpp"
#include "libupm/store/hash.hpp"
#include "libupm/store/overlay.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <string_view>
#include <sys/mman.h>
#include <unistd.h>

namespace upm::store {

namespace {

// What is read and compared in one go: it stays in a processor's second cache.
constexpr std::size_t kPiece = 256UL << 10U;
// So many pieces that differ from a segment end the comparison with it.
constexpr unsigned kMostDiffering = 4;
// Pages by which a window is found.
constexpr std::uint32_t kSample = 16;
// How long a look-up may take, ms, where a processor is free: a broker that is awake
// answers in a tenth of one.
constexpr std::uint64_t kFindMs = 15;
// How long making a segment may take: so many times what reading it here would, and as
// many ms more. The broker reads, hashes and writes.
constexpr std::uint64_t kMakeFactor = 32;
constexpr std::uint64_t kMakeMs = 5;
constexpr std::uint64_t kMostMs = 10'000;
// Memory that is not known to be ordinary is looked up in smaps only for this much: the
// kernel walks every page of the process for that.
constexpr std::size_t kWorthSmaps = 64UL << 20U;
constexpr std::uint64_t kFirstPauseNs = 1'000'000'000;
constexpr std::uint32_t kMostDoublings = 6;

static_assert(kMaxPages * 4096UL % kHugePage == 0);

// How many threads there are for each processor just now, 1 at least: so many times as
// long it takes until the broker gets one, and a plain read as well.
std::uint64_t crowding() noexcept {
    constexpr std::uint64_t kMost = 16;
    char text[64];
    const int fd = ::open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
    const ssize_t got = fd >= 0 ? ::read(fd, text, sizeof(text)) : -1;
    if (fd >= 0)
        ::close(fd);
    // "0.20 0.18 0.12 3/80 11206": three threads run or want to.
    std::string_view line(text, got > 0 ? static_cast<std::size_t>(got) : 0);
    for (int field = 0; field < 3; ++field)
        line.remove_prefix(std::min(line.size(), line.find(' ') + 1));
    std::uint64_t running = 1;
    (void)std::from_chars(line.data(), line.data() + line.size(), running);
    const long processors = ::sysconf(_SC_NPROCESSORS_ONLN);
    return std::clamp<std::uint64_t>(running / static_cast<std::uint64_t>(std::max(processors, 1L)),
                                     1, kMost);
}

} // namespace

bool Patience::good() const noexcept {
    return now_ns() >= not_before_ns_.load(std::memory_order_relaxed);
}

void Patience::failed() noexcept {
    const std::uint32_t before = failures_.fetch_add(1, std::memory_order_relaxed);
    not_before_ns_.store(now_ns() + (kFirstPauseNs << std::min(before, kMostDoublings)),
                         std::memory_order_relaxed);
}

// A mapping of its own: nothing here may take memory from the program's heap.
struct Load::Scratch {
    std::byte pieces[2][kPiece];
    std::byte packet[kMaxPacket];
    std::uint64_t entries[kMaxPages]; // of the page map
};

Load::Load(const Tools &tools, const DomainKey &domain, const LoadCall &call,
           upm_load_counts &counts) noexcept
    : tools_(tools), domain_(domain), call_(call), counts_(counts) {
    std::fill(std::begin(slots_), std::end(slots_), ConnectionPool::kSlots);
}

Load::~Load() {
    for (const std::size_t slot : slots_)
        if (slot != ConnectionPool::kSlots)
            tools_.pool.put_back(slot);
    if (scratch_ != nullptr)
        (void)::munmap(scratch_, sizeof(Scratch));
}

// Returns true if something can be shared.
bool Load::begin() noexcept {
    if (!tools_.patience.good() || pagemap_.error() != 0)
        return false;
    const auto start = reinterpret_cast<std::uint64_t>(call_.into);
    const std::uint64_t end = start + call_.len;
    Vma vma;
    bool ordinary = call_.ordinary;
    if (!ordinary) {
        ordinary = find_plain_vma(start, end, vma);
        if (!ordinary && call_.len >= kWorthSmaps) {
            SmapsReader smaps("/proc/thread-self/smaps");
            while (!ordinary && smaps.next(vma) && vma.start <= start)
                ordinary = vma.end >= end && vma.flags == 0;
        }
        ordinary = ordinary && vma.protection == (PROT_READ | PROT_WRITE);
    }
    if (!ordinary)
        return false;
    void *const memory = ::mmap(nullptr, sizeof(Scratch), PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return false;
    (void)::madvise(memory, sizeof(Scratch), MADV_DONTFORK); // no child has a use for it
    scratch_ = static_cast<Scratch *>(memory);
    crowding_ = crowding();
    return view_.reserve(kMaxPages * page_size() + kHugePage);
}

std::int64_t Load::run() noexcept {
    const std::uint64_t mask = page_size() - 1;
    const std::uint64_t size = sharable_size(call_.fd);
    const std::size_t there = static_cast<std::size_t>(
        std::min<std::uint64_t>(call_.len, size - std::min(size, call_.offset)));
    const auto start = reinterpret_cast<std::uint64_t>(call_.into);
    const std::uint64_t first = (start + mask) & ~mask;
    const std::uint64_t end = (start + there) & ~mask;
    if (end < first + kLeast || !begin())
        return copy(call_.into, call_.offset, call_.len);
    // The whole pages first: a page that is touched beside them may bring a huge page,
    // and then they exist.
    const std::size_t head = first - start;
    const std::int64_t middle =
        share(call_.into + head, call_.offset + head, static_cast<std::size_t>(end - first));
    const std::int64_t before = head != 0 ? copy(call_.into, call_.offset, head) : 0;
    if (before < static_cast<std::int64_t>(head) ||
        middle < static_cast<std::int64_t>(end - first)) {
        // Shorter than it was, or an error: what pread(2) would have told.
        const std::int64_t got = before < static_cast<std::int64_t>(head) ? before
                                 : middle >= 0                            ? before + middle
                                 : before > 0                             ? before
                                                                          : middle;
        counts_ = {};
        counts_.copied = static_cast<std::uint64_t>(std::max<std::int64_t>(got, 0));
        return got;
    }
    const std::size_t done = head + static_cast<std::size_t>(middle);
    const std::int64_t after = copy(call_.into + done, call_.offset + done, call_.len - done);
    return static_cast<std::int64_t>(done) + std::max<std::int64_t>(after, 0);
}

// A plain read, counted.
std::int64_t Load::copy(std::byte *at, std::uint64_t offset, std::size_t size) noexcept {
    const std::int64_t got = size != 0 ? plain_read(call_.fd, offset, at, size) : 0;
    counts_.copied += static_cast<std::uint64_t>(std::max<std::int64_t>(got, 0));
    return got;
}

// The next window is found, and a segment of it asked for, before this one is compared:
// so the broker reads while this thread compares.
std::int64_t Load::share(std::byte *at, std::uint64_t offset, std::size_t size) noexcept {
    std::size_t cut = 0;
    const auto next = [&](Window &window) {
        window = {};
        if (cut == size)
            return;
        bool none = false;
        window.at = at + cut;
        window.offset = offset + cut;
        window.piece = scratch_->pieces[turn_];
        window.slot = turn_;
        turn_ ^= 1U;
        window.size = next_window(window.at, size - cut, none);
        cut += window.size;
        if (none && window.size >= kLeast)
            prepare(window);
    };
    std::size_t done = 0;
    Window now;
    Window ahead;
    next(now);
    while (now.size != 0) {
        next(ahead);
        const std::size_t wanted = now.size;
        const std::int64_t got = finish(now);
        if (got < 0 || static_cast<std::size_t>(got) < wanted) {
            drop(ahead);
            done += static_cast<std::size_t>(std::max<std::int64_t>(got, 0));
            return got < 0 && done == 0 ? got : static_cast<std::int64_t>(done);
        }
        done += wanted;
        now = ahead;
    }
    return static_cast<std::int64_t>(done);
}

// How many bytes from there on are pages that all exist, or that all do not: `none`.
// Windows end where huge pages may begin, so that none is cut.
std::size_t Load::next_window(const std::byte *at, std::size_t size, bool &none) noexcept {
    const std::size_t huge = reinterpret_cast<std::uintptr_t>(at) % kHugePage;
    std::size_t most = huge != 0 ? kHugePage - huge : kMaxPages * page_size();
    most = std::min(most, size);
    const auto pages = static_cast<std::uint32_t>(most / page_size());
    if (pagemap_.read(reinterpret_cast<std::uint64_t>(at), pages, scratch_->entries) != 0) {
        none = false;
        return most;
    }
    const auto exists = [](std::uint64_t entry) {
        return (entry & (kPagePresent | kPageSwapped)) != 0;
    };
    none = !exists(scratch_->entries[0]);
    std::uint32_t same = 1;
    while (same < pages && exists(scratch_->entries[same]) != none)
        ++same;
    return same * page_size();
}

bool Load::absent(const std::byte *at, std::size_t size) noexcept {
    bool none = false;
    for (std::size_t done = 0; done < size;) {
        done += next_window(at + done, size - done, none);
        if (!none)
            return false;
    }
    return true;
}

// Finds where the content of a window is, or has the broker begin to make a segment.
void Load::prepare(Window &window) noexcept {
    if (!talk_)
        return;
    const std::size_t wanted = std::min(window.size, kPiece);
    const std::uint64_t start = now_ns();
    if (plain_read(call_.fd, window.offset, window.piece, wanted) !=
        static_cast<std::int64_t>(wanted))
        return;             // copying finds out why
    if (wanted == kPiece) { // the fastest: others may have come in between
        const std::uint64_t took = now_ns() - start;
        piece_ns_ = piece_ns_ == 0 ? took : std::min(piece_ns_, took);
    }
    window.sampled = wanted;
    std::size_t &slot = slots_[window.slot];
    if (slot == ConnectionPool::kSlots &&
        tools_.pool.acquire_existing(tools_.path, domain_, patience_ms(kFindMs), slot) != 0) {
        slot = ConnectionPool::kSlots;
        give_up();
        return;
    }
    std::uint64_t likeness = 0;
    if (!find(window, likeness) && talk_ && likeness != 0)
        ask_for(window, likeness);
}

int Load::patience_ms(std::uint64_t ms) const noexcept {
    return static_cast<int>(std::min<std::uint64_t>(ms * crowding_, kMostMs));
}

// Looks a few pages up. Returns true if they are in a segment. `likeness` stands for
// them: 0 if they are all of zeros.
bool Load::find(Window &window, std::uint64_t &likeness) noexcept {
    Connection &connection = tools_.pool.at(slots_[window.slot]);
    std::uint64_t hashes[kSample];
    std::uint32_t pages[kSample];
    Place places[kSample];
    std::uint32_t count = 0;
    for (std::size_t at = 0; at < window.sampled && count < kSample; at += page_size()) {
        if (is_zero(window.piece + at))
            continue;
        hashes[count] = hash_bytes(window.piece + at, page_size(), connection.seed());
        pages[count++] = static_cast<std::uint32_t>(at / page_size());
    }
    if (count == 0)
        return false;
    likeness = hash_bytes(hashes, count * sizeof(hashes[0]), window.size) | 1U;
    Connection::Attached attached;
    const int ret = connection.lookup({hashes, count}, false, {places, count}, scratch_->packet,
                                      &attached, patience_ms(kFindMs));
    if (ret != 0) {
        give_up();
        return false;
    }
    tools_.patience.answered();
    window.segment = attached;
    for (std::uint32_t i = 0; i < count; ++i) {
        if (!is_segment(places[i].segment))
            continue;
        // The descriptor that came along is of the first one. What lies in front of its
        // first page is not in it: then the window is made anew.
        if (attached.fd < 0 || places[i].page < pages[i] || places[i].page >= attached.pages)
            break;
        window.place = {.segment = places[i].segment, .page = places[i].page - pages[i]};
        return true;
    }
    forget(window);
    return false;
}

void Load::ask_for(Window &window, std::uint64_t likeness) noexcept {
    if (!make_)
        return;
    const bool aligned = reinterpret_cast<std::uintptr_t>(window.at) % kHugePage == 0;
    const MakeRequest request{.header = {},
                              .offset = window.offset,
                              .likeness = likeness,
                              .pages = static_cast<std::uint32_t>(window.size / page_size()),
                              .flags = aligned ? kAligned : 0U};
    // Opened anew: with the program's own, its locks and its right to write would go along,
    // and stay with a broker that is stopped.
    char path[32];
    (void)std::snprintf(path, sizeof(path), "/proc/self/fd/%d", call_.fd);
    const int file = ::open(path, O_RDONLY | O_CLOEXEC);
    const int ret =
        file >= 0 ? tools_.pool.at(slots_[window.slot]).begin_make(request, file) : -errno;
    if (file >= 0)
        ::close(file);
    window.asked = ret == 0;
    make_ = make_ && ret == 0;
}

// Waits for the segment that was asked for, no longer than reading would take some times.
void Load::await(Window &window) noexcept {
    window.asked = false;
    if (!talk_)
        return;
    const std::uint64_t pieces = window.size / kPiece + 1;
    const std::uint64_t ms = kMakeMs + kMakeFactor * piece_ns_ * pieces / 1'000'000U;
    window.place = {};
    const int ret = tools_.pool.at(slots_[window.slot])
                        .end_make(window.place.segment, window.segment, patience_ms(ms));
    window.made = ret == 0;
    if (ret == -ETIMEDOUT || ret == -ECONNRESET || ret == -EPROTO)
        give_up();
    else if (ret != 0)
        make_ = false; // no room, or not of this file
}

// Shares or copies all of a window. Returns the bytes read, or -errno if that is none.
std::int64_t Load::finish(Window &window) noexcept {
    std::size_t done = 0;
    const auto result = [&](std::int64_t got) {
        return got < 0 && done == 0
                   ? got
                   : static_cast<std::int64_t>(done) + std::max<std::int64_t>(got, 0);
    };
    for (;;) {
        if (window.asked)
            await(window);
        if (window.segment.fd < 0)
            return result(copy(window.at, window.offset, window.size));
        const std::size_t covered =
            std::min(window.size, (window.segment.pages - window.place.page) * page_size());
        const std::int64_t got = compare_and_map(window, covered);
        forget(window);
        if (got < 0 || static_cast<std::size_t>(got) < covered || covered == window.size)
            return result(got);
        // The segment ends before the window does: the rest may be in another one.
        done += covered;
        window.at += covered;
        window.offset += covered;
        window.size -= covered;
        window.sampled = 0;
        if (window.size >= kLeast)
            prepare(window);
    }
}

std::int64_t Load::compare_and_map(Window &window, std::size_t size) noexcept {
    std::byte *const view = view_.data() + reinterpret_cast<std::uintptr_t>(window.at) % kHugePage;
    if (::mmap(view, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, window.segment.fd,
               static_cast<off_t>(window.place.page * page_size())) == MAP_FAILED)
        return copy(window.at, window.offset, size);
    (void)::madvise(view, size, MADV_POPULATE_READ);
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
        const std::size_t wanted = std::min(kPiece, size - at);
        const bool there = (at == 0 && window.sampled >= wanted) ||
                           plain_read(call_.fd, window.offset + at, window.piece, wanted) ==
                               static_cast<std::int64_t>(wanted);
        if (there && std::memcmp(window.piece, view + at, wanted) == 0) {
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
    if (!flush())
        return static_cast<std::int64_t>(equal);
    if (at == size)
        return static_cast<std::int64_t>(size);
    const std::int64_t got = copy(window.at + at, window.offset + at, size - at);
    return static_cast<std::int64_t>(at) + std::max<std::int64_t>(got, 0);
}

// Maps the view's bytes from `start` to `end` in place of pages that do not exist. False:
// nothing has changed.
bool Load::map_run(const Window &window, std::size_t start, std::size_t end) noexcept {
    const std::size_t size = end - start;
    std::byte *const view = view_.data() + reinterpret_cast<std::uintptr_t>(window.at) % kHugePage;
    if (call_.gate != nullptr && !call_.gate->enter())
        return false;
    const bool mapped = absent(window.at + start, size) &&
                        tools_.budget.afford(static_cast<std::uint32_t>(size / page_size())) &&
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
    (void)tools_.pool.at(slots_[window.slot])
        .report(window.place.segment, static_cast<std::int64_t>(size / page_size()));
    return true;
}

// The answer to what was asked for it is still to come, and must not be taken for another.
void Load::drop(Window &window) noexcept {
    forget(window);
    if (window.asked)
        tools_.pool.at(slots_[window.slot]).close();
}

void Load::forget(Window &window) noexcept {
    if (window.segment.fd >= 0)
        ::close(window.segment.fd);
    window.segment = {};
}

// The broker does not answer in time, or not at all: the rest is read plainly, and later
// loads leave it alone for a while. What comes late must not be taken for an answer.
void Load::give_up() noexcept {
    talk_ = false;
    make_ = false;
    tools_.patience.failed();
    for (const std::size_t slot : slots_)
        if (slot != ConnectionPool::kSlots)
            tools_.pool.at(slot).close();
}

} // namespace upm::store
