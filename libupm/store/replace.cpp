// SPDX-License-Identifier: MIT
#include "libupm/store/replace.hpp"

#include "libupm/base/system.hpp"
#include "libupm/store/hash.hpp"
#include "libupm/store/overlay.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sys/mman.h>

namespace upm::store {

namespace {

// So many pages in a row that differ end a run of successors.
constexpr std::uint32_t kPatience = 8;

void *pointer(std::uint64_t address) noexcept {
    return reinterpret_cast<void *>(address);
}

// Has the kernel map the view, many pages with each fault, before any writer waits.
void touch(const std::byte *view, std::size_t size) noexcept {
    constexpr std::size_t kAround = 64UL * 1024; // what it maps around a fault, aligned
    const std::size_t ahead = reinterpret_cast<std::uintptr_t>(view) % kAround;
    for (std::size_t at = 0; at < size; at += at == 0 ? kAround - ahead : kAround)
        (void)*static_cast<const volatile std::byte *>(view + at);
}

} // namespace

int SegmentView::map(std::uint64_t address, const OpenSegment &segment, std::uint32_t page,
                     std::uint32_t pages, int protection) noexcept {
    const std::size_t batch = kBatch * page_size();
    if (!range_ && !range_.reserve(batch))
        return -ENOMEM;
    data_ = range_.data() + address % batch;
    if (::mmap(data_, pages * page_size(), protection, MAP_PRIVATE | MAP_FIXED, segment.fd,
               static_cast<off_t>(page * page_size())) == MAP_FAILED)
        return -errno;
    touch(data_, pages * page_size());
    return 0;
}

std::byte *SegmentView::page(std::uint32_t index) const noexcept {
    return data_ + index * page_size();
}

// A frozen batch beside the view. Both are counted from their first pages; they drift
// apart where the batch has zeros, which segments do not hold.
class Replacer::Comparison {
  public:
    Comparison(Replacer &replacer, Window &window, const Run &batch, OpenSegment &segment,
               std::uint32_t view_pages, Frozen &frozen) noexcept
        : replacer_(replacer), window_(window), batch_(batch), segment_(segment),
          view_pages_(view_pages), frozen_(frozen) {}
    Comparison(const Comparison &) = delete;
    Comparison &operator=(const Comparison &) = delete;
    ~Comparison() = default;

    // Compares page by page, and maps what is equal.
    void run() noexcept;
    [[nodiscard]] std::uint32_t pages() const noexcept { return next_; }
    [[nodiscard]] std::uint32_t view_pages() const noexcept { return view_next_; }
    // Returns true if the run of successors is at its end.
    [[nodiscard]] bool ended() const noexcept { return ended_; }

  private:
    [[nodiscard]] bool equal() const noexcept;
    void flush() noexcept;
    bool map_over(std::uint32_t first, std::uint32_t view_first, std::uint32_t count) noexcept;

    Replacer &replacer_;
    Window &window_;
    const Run &batch_;
    OpenSegment &segment_;
    const std::uint32_t view_pages_;
    Frozen &frozen_;
    std::uint32_t next_ = 0; // page to be compared
    std::uint32_t view_next_ = 0;
    std::uint32_t equal_ = 0;     // pages before `next_` that are not mapped yet
    std::uint32_t differing_ = 0; // in a row
    bool ended_ = false;
};

bool Replacer::Comparison::equal() const noexcept {
    return frozen_.holds(next_) && std::memcmp(window_.page(batch_.first + next_),
                                               replacer_.view_.page(view_next_), page_size()) == 0;
}

void Replacer::Comparison::run() noexcept {
    while (next_ < batch_.count && view_next_ < view_pages_ && !ended_) {
        if (equal()) {
            ++equal_;
            ++next_;
            ++view_next_;
            differing_ = 0;
            continue;
        }
        flush();
        if (batch_.successor && frozen_.holds(next_) &&
            is_zero(window_.page(batch_.first + next_))) {
            // Segments hold no such pages, so the next one is looked for here.
            window_.set(batch_.first + next_, 1, PageState::kZero);
        } else {
            ++view_next_;
            ended_ = batch_.successor && ++differing_ == kPatience;
        }
        ++next_;
    }
    flush();
}

// Maps the equal pages that end here.
void Replacer::Comparison::flush() noexcept {
    const std::uint32_t count = equal_;
    const std::uint32_t first = next_ - count;
    const std::uint32_t page = batch_.first + first;
    equal_ = 0;
    if (count == 0)
        return;
    if (!frozen_.intact(first, count)) {
        window_.skip(page, count, UPM_SKIPPED_BUSY);
        return;
    }
    if (!replacer_.budget_.afford(count)) {
        window_.skip(page, count, UPM_SKIPPED_LIMIT);
        return;
    }
    if (!map_over(first, view_next_ - count, count)) {
        window_.skip(page, count, UPM_SKIPPED_NOMEM);
        return;
    }
    frozen_.replaced(first, count);
    segment_.mapped += count;
    for (std::uint32_t i = page; i < page + count; ++i) // new to this call, or to nobody
        window_.set(
            i, 1, window_.state(i) == PageState::kNew ? PageState::kInserted : PageState::kMerged);
}

bool Replacer::Comparison::map_over(std::uint32_t first, std::uint32_t view_first,
                                    std::uint32_t count) noexcept {
    return store::map_over({.at = frozen_.address(first),
                            .size = count * page_size(),
                            .fd = segment_.fd,
                            .offset = (batch_.place.page + view_first) * page_size(),
                            .protection = replacer_.target_.protection(),
                            .view = replacer_.view_.page(view_first)});
}

Replacer::Reached Replacer::merge(Window &window, const Run &run, OpenSegment &segment) noexcept {
    const std::uint32_t end = run.first + run.count;
    Run batch = run;
    while (batch.first < end && batch.place.page < segment.pages) {
        const std::uint64_t at = window.address(batch.first);
        batch.count = std::min(end - batch.first, room_in_batch(at));
        const std::uint32_t view_pages = std::min(batch.count, segment.pages - batch.place.page);
        Outside outside(target_.gate()); // faults of the view are none of the program's
        const int mapped =
            view_.map(at, segment, batch.place.page, view_pages, target_.protection());
        if (!outside.back())
            return {.page = end, .successor = {}, .error = -ECANCELED};
        if (mapped != 0) {
            window.refuse(batch.first, end - batch.first, mapped);
            return {.page = end, .successor = {}};
        }
        Frozen frozen(target_, at, batch.count);
        if (frozen.error() == -ECANCELED)
            return {.page = end, .successor = {}, .error = -ECANCELED};
        if (frozen.error() != 0) {
            window.refuse(batch.first, end - batch.first, frozen.error());
            return {.page = end, .successor = {}};
        }
        Comparison comparison(*this, window, batch, segment, view_pages, frozen);
        comparison.run();
        batch.first += comparison.pages();
        batch.place.page += comparison.view_pages();
        if (comparison.ended())
            return {.page = batch.first, .successor = {}};
    }
    if (batch.place.page < segment.pages)
        return {.page = end, .successor = batch.place};
    // A place behind the segment's end, where nothing was looked at, must not come again.
    return {.page = batch.first != run.first ? batch.first : end, .successor = {}};
}

bool Replacer::place(Frozen &frozen, std::uint32_t first, std::uint32_t count, int fd,
                     std::uint32_t file_page) noexcept {
    const std::uint64_t at = frozen.address(first);
    if (!frozen.intact(first, count) || !budget_.afford(count) ||
        !map_over({.at = at,
                   .size = count * page_size(),
                   .fd = fd,
                   .offset = file_page * page_size(),
                   .protection = target_.protection()}))
        return false;
    frozen.replaced(first, count);
    // Or the program would take the faults, and its memory would seem to be gone meanwhile.
    (void)::madvise(pointer(at), count * page_size(), MADV_POPULATE_READ);
    return true;
}

void Replacer::drop_zeros(Window &window) noexcept {
    for (std::uint32_t first = window.find(PageState::kZero, 0); first < window.pages();) {
        const std::uint32_t count = window.length(PageState::kZero, first, kBatch);
        drop_zeros(window, first, count);
        first = window.find(PageState::kZero, first + count);
    }
}

void Replacer::drop_zeros(Window &window, std::uint32_t first, std::uint32_t count) noexcept {
    Frozen frozen(target_, window.address(first), count);
    if (frozen.error() == -ECANCELED)
        return;
    if (frozen.error() != 0) {
        window.refuse(first, count, frozen.error());
        return;
    }
    const auto zero = [&](std::uint32_t i) {
        return frozen.holds(i) && is_zero(window.page(first + i));
    };
    for (std::uint32_t i = 0; i < count;) {
        std::uint32_t run = 0;
        while (i + run < count && zero(i + run))
            ++run;
        if (run != 0 && drop(frozen, i, run)) {
            window.set(first + i, run, PageState::kDropped);
        } else {
            run = std::max(run, 1U);
            window.skip(first + i, run, UPM_SKIPPED_BUSY);
        }
        i += run;
    }
}

// Memory of zeros needs no memory: a later read finds the kernel's page of zeros.
bool Replacer::drop(Frozen &frozen, std::uint32_t first, std::uint32_t count) noexcept {
    const std::size_t size = count * page_size();
    void *const at = pointer(frozen.address(first));
    if (!frozen.intact(first, count))
        return false;
    if (!target_.segment())
        return ::madvise(at, size, MADV_DONTNEED) == 0;
    // There it would bring the segment's old bytes back.
    if (!budget_.afford(count) ||
        ::mmap(at, size, target_.protection(), MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
            MAP_FAILED)
        return false;
    frozen.replaced(first, count);
    return true;
}

int Replacer::copy_back(std::uint64_t start, std::uint32_t pages) noexcept {
    const std::size_t size = pages * page_size();
    void *const copy =
        ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (copy == MAP_FAILED)
        return -errno;
    // Before anybody has to wait for it. If it fails, memcpy does it.
    (void)::madvise(copy, size, MADV_POPULATE_WRITE);
    const int ret = move_copy(copy, start, pages);
    if (ret != 0)
        (void)::munmap(copy, size);
    return ret;
}

// Copies, and moves the copy there. EAGAIN: somebody has changed the protection meanwhile.
int Replacer::move_copy(void *copy, std::uint64_t start, std::uint32_t pages) noexcept {
    const std::size_t size = pages * page_size();
    Frozen frozen(target_, start, pages);
    if (frozen.error() != 0)
        return frozen.error();
    std::memcpy(copy, pointer(start), size);
    if ((target_.protection() & PROT_WRITE) == 0)
        (void)::mprotect(copy, size, target_.protection());
    if (!frozen.intact(0, pages))
        return -EAGAIN;
    if (::mremap(copy, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, pointer(start)) != MAP_FAILED) {
        frozen.replaced(0, pages);
        return 0;
    }
    const int error = errno;
    if (::msync(pointer(start), size, MS_ASYNC) != 0)
        fail_stop();
    return -error;
}

int Replacer::unmerge(upm_counts &counts) noexcept {
    int ret = 0;
    for (std::uint64_t at = target_.start(); at < target_.end() && ret == 0;) {
        const auto pages = static_cast<std::uint32_t>(
            std::min<std::uint64_t>(kBatch, (target_.end() - at) / page_size()));
        ret = unmerge_batch(at, pages, counts);
        at += pages * page_size();
    }
    return ret;
}

int Replacer::unmerge_batch(std::uint64_t start, std::uint32_t pages, upm_counts &counts) noexcept {
    const std::uint64_t *const entries = target_.entries();
    int ret = target_.pagemap().read(start, pages, target_.entries());
    if (ret != 0)
        return ret;
    const auto shared =
        static_cast<std::uint32_t>(std::count_if(entries, entries + pages, [](std::uint64_t entry) {
            return (entry & kPageSwapped) == 0 &&
                   ((entry & kPagePresent) == 0 || (entry & kPageOfFile) != 0);
        }));
    // Pages that were written to as well: below them, the segment would show again when they
    // are dropped, and what the mapping grows by would be of the segment.
    ret = copy_back(start, pages);
    if (ret == -EAGAIN) { // left as it is
        counts.skipped[UPM_SKIPPED_BUSY] += pages;
        counts.pages += pages;
        return 0;
    }
    if (ret != 0)
        return ret;
    counts.unmerged += shared;
    counts.kept += pages - shared;
    counts.pages += pages;
    return 0;
}

} // namespace upm::store
