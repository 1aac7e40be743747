// SPDX-License-Identifier: MIT
#include <upm/upm.hpp>

#include <cerrno>
#include <gtest/gtest.h>
#include <memory>
#include <type_traits>

namespace upm::test {

namespace {

static_assert(std::is_nothrow_move_constructible_v<Result<Counts>>);
static_assert(std::is_nothrow_move_constructible_v<Result<Async>>);
static_assert(!std::is_copy_constructible_v<Async> && !std::is_copy_constructible_v<Domain>);
static_assert(std::is_nothrow_move_assignable_v<Async>);
static_assert(!std::is_convertible_v<Result<int>, bool>, "a result is no number");
static_assert(noexcept(advise(nullptr, 0)) &&noexcept(advise_async(nullptr, 0)));
static_assert(noexcept(unmerge(nullptr, 0)) &&noexcept(info()) &&noexcept(stats()));

TEST(Result, HoldsAValue) {
    const Result<int> result = 7;
    EXPECT_TRUE(result);
    EXPECT_TRUE(result.ok());
    EXPECT_EQ(*result, 7);
    EXPECT_EQ(result.error(), 0);
    EXPECT_FALSE(result.code());
}

TEST(Result, HoldsAnErrorAndWhatWasDone) {
    Counts counts;
    counts.merged = 3;
    const Result<Counts> result{counts, EINTR};
    EXPECT_FALSE(result);
    EXPECT_EQ(result.error(), EINTR);
    EXPECT_EQ(result->merged, 3U);
    EXPECT_TRUE(result.code() == std::errc::interrupted);
}

TEST(Result, MovesOut) {
    Result<std::unique_ptr<int>> result = std::make_unique<int>(5);
    const std::unique_ptr<int> taken = *std::move(result);
    EXPECT_EQ(*taken, 5);
}

TEST(Counts, Add) {
    Counts sum;
    Counts one;
    one.pages = 10;
    one.merged = 1;
    one.inserted = 2;
    one.zero = 3;
    one.already = 4;
    one.queued = 5;
    one.unmerged = 6;
    one.kept = 7;
    one.skipped[UPM_SKIPPED_BUSY] = 8;
    one.skipped[UPM_SKIPPED_UNSUPPORTED] = 1;
    one.bytes = 9;
    one.nanoseconds = 11;
    sum += one;
    sum += one;
    EXPECT_EQ(sum.pages, 20U);
    EXPECT_EQ(sum.merged, 2U);
    EXPECT_EQ(sum.inserted, 4U);
    EXPECT_EQ(sum.zero, 6U);
    EXPECT_EQ(sum.already, 8U);
    EXPECT_EQ(sum.queued, 10U);
    EXPECT_EQ(sum.unmerged, 12U);
    EXPECT_EQ(sum.kept, 14U);
    EXPECT_EQ(sum.skipped[UPM_SKIPPED_BUSY], 16U);
    EXPECT_EQ(sum.skipped_pages(), 18U);
    EXPECT_EQ(sum.bytes, 18U);
    EXPECT_EQ(sum.nanoseconds, 22U);
}

TEST(Domain, MovesItsDescriptor) {
    Domain domain = Domain::from_fd(12345);
    Domain other = std::move(domain);
    EXPECT_EQ(other.release(), 12345);
    EXPECT_FALSE(other);
}

} // namespace

} // namespace upm::test
