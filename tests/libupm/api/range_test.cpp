// SPDX-License-Identifier: MIT
//
// Ranges in the place of an address and a length: which are taken, and that their size counts
// in bytes. What the library is asked for, a played module writes down.
#include "tests/support/support.hpp"

#include <array>
#include <cstdlib>
#include <deque>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <list>
#include <string>
#include <unistd.h>
#include <upm/upm.hpp>
#include <vector>

namespace upm::test {

namespace {

template <class R>
concept Advisable = requires(R &&range) {
    advise(std::forward<R>(range));
    unmerge(std::forward<R>(range));
    advise_async(std::forward<R>(range));
    advise(std::forward<R>(range), Options{.dry_run = true});
};
template <class R>
concept Loadable = requires(R &&range) {
    load(0, 0, std::forward<R>(range));
};

static_assert(Advisable<std::vector<float> &> && Loadable<std::vector<float> &>);
static_assert(Advisable<const std::vector<float> &> && !Loadable<const std::vector<float> &>);
static_assert(Advisable<std::span<double>> && Loadable<std::span<double>>);
static_assert(Advisable<std::span<const double>> && !Loadable<std::span<const double>>);
static_assert(Advisable<std::array<int, 4> &> && Loadable<int (&)[4]>);
static_assert(Loadable<std::span<std::byte>> && Loadable<std::vector<std::byte> &>);
static_assert(!Advisable<std::vector<float>>, "it ends before the call does");
static_assert(!Advisable<std::vector<std::string> &>, "what strings point to is elsewhere");
static_assert(!Advisable<std::vector<bool> &> && !Advisable<std::deque<int> &>);
static_assert(!Advisable<std::list<int> &> && !Advisable<float *>);

struct Pair {
    int one;
    double other;
};

TEST(Range, ItsSizeCountsInBytes) {
    std::vector<float> numbers(1000);
    EXPECT_EQ(detail::bytes_of(numbers), 4000U);
    EXPECT_EQ(detail::begin_of(numbers), numbers.data());
    const std::array<Pair, 3> pairs{};
    EXPECT_EQ(detail::bytes_of(pairs), 3 * sizeof(Pair));
    std::span<const Pair> none;
    EXPECT_EQ(detail::bytes_of(none), 0U);
}

// A quarter of a vector of numbers was advised where its size() was taken for bytes.
TEST(Range, AllOfItIsAdvised) {
    const TempDir dir;
    const Finished done =
        run({UPM_PROBE, "range"}, {"UPM_BACKEND", "UPM_DOMAIN", "UPM_VERBOSE",
                                   std::string("LD_PRELOAD=") + UPM_FAKE_DEVICE, "FAKE_UPM="});
    EXPECT_EQ(done.status, 0) << done.err;
    for (const char *step : {"vector", "span", "dry", "unmerge", "async"})
        EXPECT_THAT(done.out, testing::HasSubstr(std::string(step) + " 256 pages\n"));
    EXPECT_THAT(done.out, testing::HasSubstr("half 128 pages\n"));
}

TEST(Range, AFileIsReadIntoNumbers) {
    const TempDir dir;
    dir.write("file", std::string("\1\0\0\0\2\0\0\0\3\0\0\0\4\0", 14));
    const int fd = ::open((dir.path() + "/file").c_str(), O_RDONLY | O_CLOEXEC);
    ASSERT_GE(fd, 0);
    std::vector<int> numbers(8, 9);
    const Result<Loaded> read = load(fd, 0, numbers);
    ASSERT_TRUE(read) << read.error();
    EXPECT_EQ(read->bytes, 14U);
    EXPECT_THAT(numbers, testing::ElementsAre(1, 2, 3, 4, 9, 9, 9, 9));
    std::array<std::byte, 4> bytes{};
    EXPECT_EQ(load(fd, 4, bytes)->bytes, 4U);
    EXPECT_EQ(bytes[0], std::byte{2});
    ::close(fd);
}

} // namespace

} // namespace upm::test
