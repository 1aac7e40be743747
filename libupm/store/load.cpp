// SPDX-License-Identifier: MIT
#include "libupm/store/load.hpp"

#include "libupm/base/plain_read.hpp"
#include "libupm/base/sharable_file.hpp"
#include "libupm/base/system.hpp"
#include "libupm/mm/vma_reader.hpp"
#include "libupm/store/overlay.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <utility>

namespace upm::store {

namespace {

// What is read and compared in one go: it stays in a processor's second cache.
constexpr std::size_t kPiece = Pace::kPiece;
// So many pieces that differ from a segment end the comparison with it; then another one
// may be found for the rest of the window, so many times.
constexpr unsigned kMostDiffering = 4;
constexpr unsigned kMostSegments = 3;
// Memory that is not known to be ordinary is looked up in smaps only for this much: the
// kernel walks every page of the process for that.
constexpr std::size_t kWorthSmaps = 64UL << 20U;
static_assert(kMaxPages * 4096UL % kHugePage == 0);

} // namespace

// A mapping of its own: nothing here may take memory from the program's heap.
struct Load::Scratch {
    std::byte pieces[2][kPiece];
    std::byte page[64UL << 10U]; // of a sample, whatever its size is
    std::byte packet[kMaxPacket];
    std::uint64_t entries[kMaxPages]; // of the page map
};

Load::Load(const Tools &tools, const DomainKey &domain, const LoadCall &call,
           upm_load_counts &counts) noexcept
    : tools_(tools), domain_(domain), call_(call), counts_(counts) {
    std::fill(std::begin(slots_), std::end(slots_), ConnectionPool::kSlots);
}

Load::~Load() {
    for (const std::size_t turn : {0U, 1U}) {
        if (slots_[turn] == ConnectionPool::kSlots)
            continue;
        if (!settle(turn)) // what comes late must not be taken for another answer
            tools_.pool.at(slots_[turn]).close();
        tools_.pool.put_back(slots_[turn]);
    }
    if (late_ && counts_.made == 0)
        tools_.making.failed();
    if (scratch_ != nullptr)
        (void)::munmap(scratch_, sizeof(Scratch));
}

// Returns true if something can be shared.
bool Load::begin() noexcept {
    if (tools_.luck.skips_all(call_.len) || pagemap_.error() != 0)
        return false;
    if (!call_.patient && !tools_.patience.good()) {
        talk_ = false;
        return false;
    }
    const auto start = reinterpret_cast<std::uint64_t>(call_.into);
    const std::uint64_t end = start + call_.len;
    Vma vma;
    bool ordinary = call_.ordinary;
    if (!ordinary) {
        ordinary = find_plain_vma(start, end, vma);
        if (!ordinary && call_.len >= kWorthSmaps) {
            SmapsReader smaps(own_smaps());
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
    pace_.begin(call_.patient);
    hurry_ = !call_.patient && !tools_.making.good();
    make_ = !hurry_;
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
    if (end < first + kLeast)
        return copy(call_.into, call_.offset, call_.len);
    if (!begin()) {
        if (!talk_)
            tell_late(call_.into + (first - start), static_cast<std::size_t>(end - first));
        return copy(call_.into, call_.offset, call_.len);
    }
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

// The rest of a window that no segment has. What was too late may come to share another time.
std::int64_t Load::copy_window(const Window &window) noexcept {
    if (window.late)
        tell_late(window.at, window.size);
    return copy(window.at, window.offset, window.size);
}

void Load::tell_late(const std::byte *at, std::size_t size) noexcept {
    if (call_.late != nullptr)
        call_.late->add(at, size);
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
    window.late = !talk_ || !pace_.may_ask();
    if (window.late || tools_.luck.skips(window.size))
        return;
    const std::size_t wanted = std::min(window.size, kPiece);
    const std::uint64_t start = now_ns();
    if (plain_read(call_.fd, window.offset, window.piece, wanted) !=
        static_cast<std::int64_t>(wanted))
        return; // copying finds out why
    if (wanted == kPiece)
        pace_.read(now_ns() - start, std::exchange(fresh_[window.slot], false));
    window.sampled = wanted;
    Sample sample;
    const bool connected = settle(window.slot) && connect(window.slot);
    window.late = !connected;
    if (connected &&
        sample.take(call_.fd, window.offset, window.size, {window.piece, wanted}, scratch_->page,
                    tools_.pool.at(slots_[window.slot]).seed()) &&
        !find(window, sample) && talk_)
        ask_for(window, sample.likeness());
    pace_.spent(now_ns() - start);
}

bool Load::connect(std::size_t turn) noexcept {
    std::size_t &slot = slots_[turn];
    if (slot != ConnectionPool::kSlots)
        return true;
    if (tools_.pool.acquire_existing(tools_.path, domain_, pace_.answer_ms(), slot) == 0)
        return true;
    slot = ConnectionPool::kSlots;
    give_up();
    return false;
}

// Takes an answer that came late. False: it has not come yet.
bool Load::settle(std::size_t turn) noexcept {
    if (!owing_[turn])
        return true;
    std::uint32_t segment = 0;
    Connection::Attached attached;
    owing_[turn] = tools_.pool.at(slots_[turn]).end_make(segment, attached, 0) == -ETIMEDOUT;
    if (attached.fd >= 0)
        ::close(attached.fd);
    return !owing_[turn];
}

// Returns true if the sample is in a segment.
bool Load::find(Window &window, Sample &sample) noexcept {
    Connection &connection = tools_.pool.at(slots_[window.slot]);
    Place places[Sample::kPlaces];
    const std::span<const std::uint64_t> hashes = sample.hashes();
    Connection::Attached attached;
    int ret = connection.lookup_all(hashes, {places, hashes.size()}, scratch_->packet, attached,
                                    pace_.answer_ms());
    const Sample::Candidate best =
        ret == 0 ? sample.choose({places, hashes.size()}, window.except) : Sample::Candidate{};
    if (ret == 0 && best.votes != 0) {
        const auto *const first =
            std::find_if(places, places + hashes.size(),
                         [](const Place &place) { return is_segment(place.segment); });
        window.segment = attached;
        if (attached.fd < 0 || first->segment != best.first.segment) {
            forget(window);
            ret = connection.get(best.first.segment, window.segment.fd, window.segment.pages,
                                 pace_.answer_ms());
            if (ret == -ENOENT || ret == -EMFILE) // it has just gone, or there is no room
                ret = 0;
        }
    } else if (attached.fd >= 0) {
        ::close(attached.fd);
    }
    if (ret != 0) {
        window.late = true;
        give_up();
        return false;
    }
    tools_.patience.answered();
    window.place = best.first;
    const bool useful = window.segment.fd >= 0 && best.first.page < window.segment.pages;
    if (useful && (!make_ || sample.convinces(best, window.segment.pages)))
        return true;
    forget(window);
    return false;
}

void Load::ask_for(Window &window, std::uint64_t likeness) noexcept {
    window.late = hurry_;
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
    const int file = ::open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    const int ret =
        file >= 0 ? tools_.pool.at(slots_[window.slot]).begin_make(request, file) : -errno;
    if (file >= 0)
        ::close(file);
    window.asked = ret == 0;
    make_ = make_ && ret == 0;
}

// Waits for the segment that was asked for, no longer than this load can spare.
void Load::await(Window &window) noexcept {
    window.asked = false;
    window.late = !talk_;
    if (!talk_)
        return;
    const std::uint64_t start = now_ns();
    window.place = {};
    const int ret = tools_.pool.at(slots_[window.slot])
                        .end_make(window.place.segment, window.segment, pace_.making_ms());
    pace_.spent(now_ns() - start);
    window.made = ret == 0;
    if (ret == 0) {
        tools_.making.answered();
    } else if (ret == -ETIMEDOUT) {
        owing_[window.slot] = true;
        late_ = true;
        window.late = true;
    } else if (ret == -ECONNRESET || ret == -EPROTO) {
        window.late = true;
        give_up();
    } else {
        make_ = false; // no room, or not of this file
        if (ret == -EDQUOT)
            tools_.luck.alone();
    }
}

// Shares or copies all of a window. Returns the bytes read, or -errno if that is none.
std::int64_t Load::finish(Window &window) noexcept {
    std::size_t done = 0;
    const auto result = [&](std::int64_t got) {
        return got < 0 && done == 0
                   ? got
                   : static_cast<std::int64_t>(done) + std::max<std::int64_t>(got, 0);
    };
    for (unsigned segments = 0;;) {
        if (window.asked)
            await(window);
        if (window.segment.fd < 0)
            return result(copy_window(window));
        std::size_t covered =
            std::min(window.size, (window.segment.pages - window.place.page) * page_size());
        bool differs = false;
        const std::int64_t got = compare_and_map(window, covered, differs);
        forget(window);
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
        window.sampled = 0;
        window.made = false;
        window.late = false;
        if (differs)
            window.except = window.place.segment;
        segments += differs ? 1 : 0;
        if (window.size >= kLeast && segments < kMostSegments)
            prepare(window);
    }
}

// Returns true if the file's bytes are those of the segment.
bool Load::same(const Window &window, const std::byte *view, std::size_t at,
                std::size_t size) noexcept {
    if (at != 0 || window.sampled < size) {
        const std::uint64_t start = now_ns();
        if (plain_read(call_.fd, window.offset + at, window.piece, size) !=
            static_cast<std::int64_t>(size))
            return false;
        if (size == kPiece)
            pace_.read(now_ns() - start, std::exchange(fresh_[window.slot], false));
    }
    return std::memcmp(window.piece, view + at, size) == 0;
}

// Returns the bytes read from the beginning of the window, fewer than `size` if the file
// ends or, with `differs`, if the segment is too different to go on with it.
std::int64_t Load::compare_and_map(Window &window, std::size_t size, bool &differs) noexcept {
    std::byte *const view = view_.data() + reinterpret_cast<std::uintptr_t>(window.at) % kHugePage;
    const std::uint64_t start = now_ns();
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
    pace_.spent(now_ns() - start);
    differs = at < size;
    return flush() ? static_cast<std::int64_t>(at) : static_cast<std::int64_t>(equal);
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
    pace_.won(size);
    if (!window.made)
        tools_.luck.shared();
    (void)tools_.pool.at(slots_[window.slot])
        .report(window.place.segment, static_cast<std::int64_t>(size / page_size()));
    return true;
}

// The answer to what was asked for it is still to come, and must not be taken for another.
void Load::drop(Window &window) noexcept {
    forget(window);
    owing_[window.slot] = owing_[window.slot] || window.asked;
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
    std::fill(std::begin(owing_), std::end(owing_), false);
}

} // namespace upm::store
