// SPDX-License-Identifier: MIT
//
// What may become of a page, without a broker and without memory of a program.
#include "libupm/store/window.hpp"

#include "libupm/base/system.hpp"
#include "libupm/mm/pagemap.hpp"

#include <cerrno>
#include <gtest/gtest.h>
#include <map>
#include <memory>
#include <set>
#include <vector>

namespace upm::store {

namespace {

constexpr std::uint64_t kStart = 0x7f00'0000'0000;

constexpr PageState kAll[] = {
    PageState::kTodo,    PageState::kForked,  PageState::kZero,    PageState::kNew,
    PageState::kKnown,   PageState::kPlaced,  PageState::kMerged,  PageState::kInserted,
    PageState::kDropped, PageState::kAlready, PageState::kSkipped,
};

std::unique_ptr<Window> window_of(std::uint32_t pages) {
    auto window = std::make_unique<Window>();
    window->begin(kStart, pages);
    return window;
}

// A page that has come to a state by the states before it.
void bring(Window &window, std::uint32_t index, PageState state) {
    if (state == PageState::kTodo)
        return;
    if (state == PageState::kPlaced || state == PageState::kInserted)
        window.set(index, 1, PageState::kNew);
    if (state == PageState::kDropped)
        window.set(index, 1, PageState::kZero);
    if (state == PageState::kSkipped)
        window.skip(index, 1, UPM_SKIPPED_BUSY);
    else
        window.set(index, 1, state);
    ASSERT_EQ(window.state(index), state);
}

TEST(Window, PagesGoOnlyWhereTheyMay) {
    using enum PageState;
    const std::map<PageState, std::set<PageState>> allowed = {
        {kTodo, {kForked, kZero, kNew, kKnown, kMerged, kAlready, kSkipped}},
        {kForked, {kTodo, kSkipped}},
        {kZero, {kNew, kDropped, kSkipped}},
        {kNew, {kTodo, kZero, kKnown, kPlaced, kInserted, kSkipped}},
        {kKnown, {kTodo, kNew, kMerged, kSkipped}},
        {kPlaced, {kNew, kInserted, kSkipped}},
    };
    for (const PageState from : kAll) {
        for (const PageState to : kAll) {
            const auto rule = allowed.find(from);
            const bool may = rule != allowed.end() && rule->second.contains(to);
            EXPECT_EQ(Window::may_become(from, to), may)
                << static_cast<int>(from) << " to " << static_cast<int>(to);
            const auto window = window_of(1);
            bring(*window, 0, from);
            window->set(0, 1, to);
            EXPECT_EQ(window->state(0), may ? to : from);
        }
    }
}

TEST(Window, EachFinalPageIsCountedOnce) {
    const auto window = window_of(9);
    window->set(0, 1, PageState::kMerged);
    window->set(1, 2, PageState::kNew);
    window->set(1, 2, PageState::kInserted);
    window->set(3, 1, PageState::kZero);
    window->set(3, 1, PageState::kDropped);
    window->set(4, 1, PageState::kAlready);
    window->skip(5, 1, UPM_SKIPPED_SWAPPED);
    window->skip(5, 1, UPM_SKIPPED_LIMIT); // too late
    window->skip(0, 1, UPM_SKIPPED_LIMIT);
    window->refuse(6, 1, -ENOMEM);
    window->set(7, 1, PageState::kKnown); // not done, as 8
    upm_counts counts{};
    window->add_to(counts);
    EXPECT_EQ(counts.pages, 7U);
    EXPECT_EQ(counts.merged, 1U);
    EXPECT_EQ(counts.inserted, 2U);
    EXPECT_EQ(counts.zero, 1U);
    EXPECT_EQ(counts.already, 1U);
    EXPECT_EQ(counts.skipped[UPM_SKIPPED_SWAPPED], 1U);
    EXPECT_EQ(counts.skipped[UPM_SKIPPED_NOMEM], 1U);
    EXPECT_EQ(counts.skipped[UPM_SKIPPED_LIMIT], 0U);
}

TEST(Window, OnlyLackOfMeansIsAnError) {
    const auto window = window_of(4);
    window->refuse(0, 1, -EBUSY);
    window->refuse(1, 1, -EINVAL);
    EXPECT_EQ(window->error(), 0);
    window->refuse(2, 1, -EMFILE);
    window->refuse(3, 1, -ENOMEM);
    EXPECT_EQ(window->error(), -EMFILE) << "the first one";
    upm_counts counts{};
    window->add_to(counts);
    EXPECT_EQ(counts.skipped[UPM_SKIPPED_UFFD], 1U);
    EXPECT_EQ(counts.skipped[UPM_SKIPPED_UNSUPPORTED], 1U);
    EXPECT_EQ(counts.skipped[UPM_SKIPPED_NOMEM], 2U);
    window->begin(kStart, 4);
    EXPECT_EQ(window->error(), 0);
}

TEST(Window, SortsPagesOutByTheirEntries) {
    const std::vector<std::uint64_t> entries = {
        kPagePresent, kPagePresent | kPageOfFile, 0, kPageSwapped, kPageSwapped | kPageOfFile,
    };
    const auto states = [&](bool segment) {
        const auto window = window_of(6);
        window->sort_out(1, entries, segment);
        std::vector<PageState> found;
        for (std::uint32_t i = 0; i < window->pages(); ++i)
            found.push_back(window->state(i));
        return found;
    };
    using enum PageState;
    EXPECT_EQ(states(false), (std::vector{kTodo, kTodo, kTodo, kSkipped, kSkipped, kSkipped}));
    EXPECT_EQ(states(true), (std::vector{kTodo, kTodo, kAlready, kAlready, kSkipped, kSkipped}));
}

TEST(Window, PutsPagesAsideThatAForkShares) {
    const auto window = window_of(5);
    window->set(3, 1, PageState::kZero);
    const std::vector<std::uint64_t> entries = {kPagePresent, kPagePresent | kPageExclusive, 0,
                                                kPagePresent};
    window->put_forked_aside(0, entries);
    EXPECT_EQ(window->state(0), PageState::kForked);
    EXPECT_EQ(window->state(1), PageState::kTodo);
    EXPECT_EQ(window->state(2), PageState::kTodo);
    EXPECT_EQ(window->state(3), PageState::kZero);
    EXPECT_EQ(window->state(4), PageState::kTodo);
    EXPECT_TRUE(window->take_forked_back());
    EXPECT_EQ(window->state(0), PageState::kTodo);
    EXPECT_FALSE(window->take_forked_back());
}

TEST(Window, FindsPagesByTheirState) {
    const auto window = window_of(8);
    window->set(2, 3, PageState::kZero);
    EXPECT_EQ(window->find(PageState::kZero, 0), 2U);
    EXPECT_EQ(window->find(PageState::kTodo, 2), 5U);
    EXPECT_EQ(window->find(PageState::kZero, 5), 8U) << "none";
    EXPECT_EQ(window->find(PageState::kTodo, 8), 8U);
    EXPECT_EQ(window->length(PageState::kZero, 2, 100), 3U);
    EXPECT_EQ(window->length(PageState::kZero, 2, 2), 2U);
    EXPECT_EQ(window->length(PageState::kZero, 0, 8), 0U);
    EXPECT_EQ(window->length(PageState::kTodo, 5, 8), 3U) << "as far as the window goes";
    EXPECT_EQ(window->count(PageState::kTodo), 5U);
    EXPECT_EQ(window->address(3), kStart + 3 * page_size());
}

TEST(Window, ForgetsOnlyWhatHashesTold) {
    const auto window = window_of(5);
    window->set(0, 1, PageState::kNew);
    window->set(1, 1, PageState::kKnown);
    window->set(2, 1, PageState::kZero);
    window->set(3, 1, PageState::kMerged);
    window->forget_hashes();
    EXPECT_EQ(window->state(0), PageState::kTodo);
    EXPECT_EQ(window->state(1), PageState::kTodo);
    EXPECT_EQ(window->state(2), PageState::kZero);
    EXPECT_EQ(window->state(3), PageState::kMerged);
}

} // namespace

} // namespace upm::store
