// SPDX-License-Identifier: MIT
#include "libupm/store/window.hpp"

#include "libupm/base/system.hpp"
#include "libupm/mm/pagemap.hpp"

#include <algorithm>
#include <cerrno>
#include <iterator>

namespace upm::store {

namespace {

constexpr std::size_t kStates = static_cast<std::size_t>(PageState::kSkipped) + 1;

constexpr unsigned bit(PageState state) noexcept {
    return 1U << static_cast<unsigned>(state);
}

template <class... States>
constexpr unsigned bits(States... states) noexcept {
    return (bit(states) | ...);
}

// What may follow each state; nothing follows one that is final.
constexpr unsigned kNext[kStates] = {
    /* kTodo */
    bits(PageState::kForked, PageState::kZero, PageState::kNew, PageState::kKnown,
         PageState::kMerged, PageState::kAlready, PageState::kSkipped),
    /* kForked */ bits(PageState::kTodo, PageState::kSkipped),
    /* kZero */ bits(PageState::kNew, PageState::kDropped, PageState::kSkipped),
    /* kNew */
    bits(PageState::kTodo, PageState::kZero, PageState::kKnown, PageState::kPlaced,
         PageState::kInserted, PageState::kSkipped),
    /* kKnown */
    bits(PageState::kTodo, PageState::kNew, PageState::kMerged, PageState::kSkipped),
    /* kPlaced */ bits(PageState::kInserted, PageState::kNew, PageState::kSkipped),
};

std::uint64_t *counter(upm_counts &counts, PageState state, unsigned reason) noexcept {
    switch (state) {
    case PageState::kMerged:
        return &counts.merged;
    case PageState::kInserted:
        return &counts.inserted;
    case PageState::kDropped:
        return &counts.zero;
    case PageState::kAlready:
        return &counts.already;
    case PageState::kSkipped:
        return &counts.skipped[reason];
    default:
        return nullptr;
    }
}

} // namespace

void Window::begin(std::uint64_t start, std::uint32_t pages) noexcept {
    start_ = start;
    pages_ = pages;
    error_ = 0;
    std::fill_n(states_, pages, PageState::kTodo);
}

void Window::sort_out(std::uint32_t first, std::span<const std::uint64_t> entries,
                      bool segment) noexcept {
    for (const std::uint64_t entry : entries) {
        const bool present = (entry & kPagePresent) != 0;
        if ((entry & kPageSwapped) != 0)
            skip(first, 1, UPM_SKIPPED_SWAPPED);
        else if (segment && (!present || (entry & kPageOfFile) != 0))
            set(first, 1, PageState::kAlready);
        else if (!present)
            skip(first, 1, UPM_SKIPPED_NOT_PRESENT);
        ++first;
    }
}

void Window::put_forked_aside(std::uint32_t first,
                              std::span<const std::uint64_t> entries) noexcept {
    for (const std::uint64_t entry : entries) {
        if (states_[first] == PageState::kTodo && (entry & kPagePresent) != 0 &&
            (entry & kPageExclusive) == 0)
            set(first, 1, PageState::kForked);
        ++first;
    }
}

bool Window::take_forked_back() noexcept {
    bool any = false;
    for (std::uint32_t i = find(PageState::kForked, 0); i < pages_;
         i = find(PageState::kForked, i + 1)) {
        set(i, 1, PageState::kTodo);
        any = true;
    }
    return any;
}

std::uint64_t Window::address(std::uint32_t index) const noexcept {
    return start_ + index * page_size();
}

const std::byte *Window::page(std::uint32_t index) const noexcept {
    return reinterpret_cast<const std::byte *>(address(index));
}

PageState Window::state(std::uint32_t index) const noexcept {
    return states_[index];
}

std::uint32_t Window::find(PageState state, std::uint32_t from) const noexcept {
    return static_cast<std::uint32_t>(std::find(states_ + from, states_ + pages_, state) - states_);
}

std::uint32_t Window::length(PageState state, std::uint32_t from,
                             std::uint32_t limit) const noexcept {
    const std::uint32_t end = from + std::min(limit, pages_ - from);
    const auto *const other = std::find_if(states_ + from, states_ + end,
                                           [&](PageState found) { return found != state; });
    return static_cast<std::uint32_t>(other - states_) - from;
}

std::uint32_t Window::count(PageState state) const noexcept {
    return static_cast<std::uint32_t>(std::count(states_, states_ + pages_, state));
}

bool Window::may_become(PageState from, PageState to) noexcept {
    return (kNext[static_cast<std::size_t>(from)] & bit(to)) != 0;
}

void Window::set(std::uint32_t first, std::uint32_t count, PageState to) noexcept {
    for (std::uint32_t i = first; i < first + count; ++i)
        states_[i] = may_become(states_[i], to) ? to : states_[i];
}

void Window::skip(std::uint32_t first, std::uint32_t count, unsigned reason) noexcept {
    for (std::uint32_t i = first; i < first + count; ++i)
        if (may_become(states_[i], PageState::kSkipped))
            reasons_[i] = static_cast<std::uint8_t>(reason);
    set(first, count, PageState::kSkipped);
}

void Window::refuse(std::uint32_t first, std::uint32_t count, int error) noexcept {
    unsigned reason = UPM_SKIPPED_UNSUPPORTED;
    if (error == -EBUSY) {
        reason = UPM_SKIPPED_UFFD;
    } else if (error == -ENOMEM || error == -EMFILE || error == -ENFILE) {
        reason = UPM_SKIPPED_NOMEM;
        fail(error);
    }
    skip(first, count, reason);
}

void Window::forget_hashes() noexcept {
    for (std::uint32_t i = 0; i < pages_; ++i)
        if (states_[i] == PageState::kNew || states_[i] == PageState::kKnown)
            set(i, 1, PageState::kTodo);
}

void Window::add_to(upm_counts &counts) const noexcept {
    for (std::uint32_t i = 0; i < pages_; ++i) {
        if (std::uint64_t *const sum = counter(counts, states_[i], reasons_[i]); sum != nullptr) {
            ++*sum;
            ++counts.pages;
        }
    }
}

} // namespace upm::store
