// SPDX-License-Identifier: MIT
//
// A process with one region and a descriptor of /dev/upm: what most tests need
// two of. And the fixture that looks for what a test left behind.
#ifndef UPM_TESTS_KMOD_SUPPORT_ACTOR_HPP
#define UPM_TESTS_KMOD_SUPPORT_ACTOR_HPP

#include "tests/kmod/support/device.hpp"
#include "tests/support/pattern.hpp"
#include "tests/support/proc.hpp"
#include "tests/support/process.hpp"
#include "tests/support/region.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace upm::test {

// Those that the module merges. kFileDirty it does not: see FilePages.PrivateCopiesStay.
inline constexpr std::array kKinds = {Kind::kAnonymous, Kind::kHuge,  Kind::kReadOnly,
                                      Kind::kFileClean, Kind::kText,  Kind::kMemfd,
                                      Kind::kStack,     Kind::kLocked};

// In a child: its region and its device.
Region &region();
Device &device();

class Actor {
  public:
    Actor(Kind kind, const Pattern &pattern, std::size_t pages,
          const std::function<void()> &prepare = {});

    Process &process() { return process_; }
    [[nodiscard]] pid_t pid() const { return process_.pid(); }

    // Process::call, for short.
    template <typename R, typename... A>
    R call(R (*function)(A...), std::type_identity_t<A>... arguments) {
        return process_.call(function, arguments...);
    }

    Advice advise(const AdviseOptions &options = {}) { return advise(0, pages(), options); }
    Advice advise(std::size_t page, std::size_t pages, const AdviseOptions &options = {});
    void start_advise(const AdviseOptions &options = {});
    Advice finish_advise() { return process_.finish<Advice>(); }
    Advice unmerge() { return advise({.flags = UPM_ADVISE_UNMERGE}); }

    // Memory and model.
    void write(std::size_t page, std::uint64_t value);
    void allow_writes();
    void check();

    [[nodiscard]] std::byte *base();
    [[nodiscard]] std::size_t pages() const { return pages_; }
    [[nodiscard]] std::size_t len() const { return pages_ * kPage; }
    [[nodiscard]] Frames frames();
    [[nodiscard]] Usage usage();

  private:
    Process process_;
    std::size_t pages_;
};

// Every test: the module has its defaults, and at the end no shared page, no domain and
// no open file of the module is left but the test's own.
class KmodTest : public testing::Test {
  protected:
    void SetUp() override;
    void TearDown() override;
};

// Returns true if the kernel makes no transparent huge pages, whatever is asked for.
bool huge_pages_are_off();

// A test for each kind of memory.
class KindTest : public KmodTest, public testing::WithParamInterface<Kind> {
  protected:
    void SetUp() override;

    static Kind kind() { return GetParam(); }
    static std::size_t pages() { return pages_of(kind()); }
    static std::size_t len() { return pages() * kPage; }
    // How many of `pages` mixed pages a merge drops: zeros of anonymous memory.
    static std::size_t dropped() { return of_file(kind()) ? 0 : pages() / 4; }
    // How many frames two such regions share at least. A quarter of the pages is the same;
    // where these are very many, one frame does not take all.
    static std::size_t shared() { return pages() - dropped() - pages() / 128; }
    static Pattern mixed() { return {Content::kMixed, fresh_seed()}; }
};

// Two processes with the same distinct content, merged. A test works on the first.
class PairTest : public KindTest {
  protected:
    void SetUp() override;
    void TearDown() override;

    Actor &a() { return *a_; }
    Actor &b() { return *b_; }

    // Neither side lost a byte, and both can still be written to, apart.
    void check_both();

  private:
    std::unique_ptr<Actor> a_;
    std::unique_ptr<Actor> b_;
};

std::string kind_name(const testing::TestParamInfo<Kind> &info);

// Waits, generously, until `done` holds. False if it never did.
bool eventually(const std::function<bool()> &done);

// Seconds that a test with timed work may use: UPM_TEST_SECONDS, else `seconds`.
double test_seconds(double seconds);

// Seconds since some moment, for loops that run for a while.
double now();

#define UPM_TEST_ALL_KINDS(suite)                                                                  \
    INSTANTIATE_TEST_SUITE_P(Kinds, suite, testing::ValuesIn(kKinds), kind_name)

} // namespace upm::test

#endif // UPM_TESTS_KMOD_SUPPORT_ACTOR_HPP
