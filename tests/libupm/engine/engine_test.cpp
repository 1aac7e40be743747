// SPDX-License-Identifier: MIT
//
// Checks and rounding: what the engine promises to every backend.
#include "tests/libupm/engine/fake_backend.hpp"

#include <cerrno>
#include <cstdint>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <limits>
#include <unistd.h>

namespace upm::test {

namespace {

const std::uint64_t kPage = page_size();
constexpr std::uint64_t kTop = std::numeric_limits<std::uint64_t>::max();

struct RoundingCase {
    const char *name;
    std::uint64_t addr;
    std::uint64_t len;
    std::uint64_t start; // expected
    std::uint64_t pages;
};

class Rounding : public testing::TestWithParam<RoundingCase> {};

// Outward rounding would touch memory that nobody named: a neighbour's secrets.
TEST_P(Rounding, IsInward) {
    const RoundingCase &test = GetParam();
    Fixture fixture;
    EXPECT_EQ(fixture.submit({.addr = test.addr, .len = test.len}), 0);
    if (test.pages == 0) {
        EXPECT_TRUE(fixture.backend.calls().empty());
        EXPECT_EQ(fixture.counts.pages, 0U);
        return;
    }
    ASSERT_EQ(fixture.backend.calls().size(), 1U);
    EXPECT_EQ(fixture.backend.calls()[0].addr, test.start);
    EXPECT_EQ(fixture.backend.calls()[0].len, test.pages * kPage);
}

INSTANTIATE_TEST_SUITE_P(
    Ends, Rounding,
    testing::Values(RoundingCase{"Exact", 4 * kPage, 2 * kPage, 4 * kPage, 2},
                    RoundingCase{"LateStart", 4 * kPage + 1, 2 * kPage - 1, 5 * kPage, 1},
                    RoundingCase{"EarlyEnd", 4 * kPage, 2 * kPage - 1, 4 * kPage, 1},
                    RoundingCase{"BothEnds", 4 * kPage + 1, 2 * kPage - 2, 0, 0},
                    RoundingCase{"BothEndsOneLeft", 4 * kPage + 1, 3 * kPage - 2, 5 * kPage, 1},
                    RoundingCase{"InsideOnePage", 4 * kPage + 8, 16, 0, 0},
                    RoundingCase{"AcrossABoundary", 5 * kPage - 8, 16, 0, 0},
                    RoundingCase{"OneByteShort", 4 * kPage, kPage - 1, 0, 0},
                    RoundingCase{"Empty", 4 * kPage, 0, 0, 0},
                    RoundingCase{"EmptyAtNull", 0, 0, 0, 0},
                    RoundingCase{"EmptyAtTop", kTop, 0, 0, 0},
                    RoundingCase{"InsideLastPage", kTop - 16, 8, 0, 0},
                    RoundingCase{"UpToLastByte", kTop - 2 * kPage + 1, 2 * kPage - 1,
                                 kTop - 2 * kPage + 1, 1}),
    [](const auto &test) { return test.param.name; });

TEST(Engine, RejectsOverflow) {
    Fixture fixture;
    EXPECT_EQ(fixture.submit({.addr = kTop - kPage, .len = 2 * kPage}), -EINVAL);
    EXPECT_EQ(fixture.submit({.addr = kPage, .len = kTop}), -EINVAL);
    EXPECT_TRUE(fixture.backend.calls().empty());
}

TEST(Engine, RejectsUnknownFlags) {
    Fixture fixture;
    for (unsigned flag = 4; flag != 0; flag <<= 1U)
        EXPECT_EQ(fixture.submit({.addr = kPage, .len = kPage, .flags = flag}), -EINVAL) << flag;
    // Also for a range in which there is nothing to do: a program must not learn
    // of its mistake only when its blocks grow.
    EXPECT_EQ(fixture.submit({.addr = kPage, .len = 0, .flags = 4}), -EINVAL);
    EXPECT_TRUE(fixture.backend.calls().empty());
}

// Memory that nobody vouched for must not be frozen in a way that breaks writers.
TEST(Engine, QuiescentIsARequirement) {
    Fixture fixture;
    fixture.backend.can.quiescent = true;
    EXPECT_EQ(fixture.submit({.addr = kPage, .len = kPage}), -EOPNOTSUPP);
    EXPECT_TRUE(fixture.backend.calls().empty());
    EXPECT_EQ(fixture.submit({.addr = kPage, .len = kPage, .flags = UPM_QUIESCENT}), 0);
    EXPECT_EQ(fixture.submit({.addr = kPage, .len = kPage, .unmerge = true}), 0);
}

TEST(Engine, RejectsNegativePid) {
    Fixture fixture;
    EXPECT_EQ(fixture.submit({.addr = kPage, .len = kPage, .pid = -1}), -EINVAL);
}

TEST(Engine, UnmergeHasNoDryRun) {
    Fixture fixture;
    EXPECT_EQ(fixture.submit({.addr = kPage, .len = kPage, .flags = UPM_DRY_RUN, .unmerge = true}),
              -EINVAL);
    EXPECT_TRUE(fixture.backend.calls().empty());
}

TEST(Engine, PassesDryRun) {
    Fixture fixture;
    EXPECT_EQ(fixture.submit({.addr = kPage, .len = kPage, .flags = UPM_DRY_RUN}), 0);
    ASSERT_EQ(fixture.backend.calls().size(), 1U);
    EXPECT_TRUE(fixture.backend.calls()[0].dry_run);
    EXPECT_FALSE(fixture.backend.calls()[0].unmerge);
}

// The own pid must not need the privilege for foreign ones.
TEST(Engine, OwnPidIsSelf) {
    Fixture fixture;
    EXPECT_EQ(fixture.submit({.addr = kPage, .len = kPage, .pid = ::getpid()}), 0);
    EXPECT_EQ(fixture.submit({.addr = kPage, .len = kPage, .pid = ::getppid()}), 0);
    ASSERT_EQ(fixture.backend.calls().size(), 2U);
    EXPECT_EQ(fixture.backend.calls()[0].pid, 0);
    EXPECT_EQ(fixture.backend.calls()[1].pid, ::getppid());
}

struct DeniedCase {
    const char *name;
    bool Capabilities::*capability;
    Request request;
};

class Denied : public testing::TestWithParam<DeniedCase> {};

// A backend never sees a call that it does not know how to do.
TEST_P(Denied, IsNotSupported) {
    const DeniedCase &test = GetParam();
    Fixture able;
    EXPECT_EQ(able.submit(test.request), 0);
    EXPECT_EQ(able.backend.calls().size(), 1U);
    Fixture unable([&](FakeBackend &backend) { backend.can.*test.capability = false; });
    EXPECT_EQ(unable.submit(test.request), -EOPNOTSUPP);
    EXPECT_TRUE(unable.backend.calls().empty());
}

INSTANTIATE_TEST_SUITE_P(
    Capabilities, Denied,
    testing::Values(
        DeniedCase{"Advise", &Capabilities::advise, {.addr = kPage, .len = kPage}},
        DeniedCase{"Remote", &Capabilities::remote, {.addr = kPage, .len = kPage, .pid = 1}},
        DeniedCase{
            "Unmerge", &Capabilities::unmerge, {.addr = kPage, .len = kPage, .unmerge = true}},
        DeniedCase{"DryRun", &Capabilities::dry_run, {.addr = kPage, .len = kPage, .flags = 1}},
        DeniedCase{
            "Domain", &Capabilities::domains, {.addr = kPage, .len = kPage, .domain_fd = 7}}),
    [](const auto &test) { return test.param.name; });

// The idiom of madvise(2): length 0 asks whether it would work at all.
TEST(Engine, EmptyRangeTellsWhetherAdviseWorks) {
    Fixture able;
    EXPECT_EQ(able.submit({.addr = 0, .len = 0}), 0);
    Fixture unable([](FakeBackend &backend) { backend.can.advise = false; });
    EXPECT_EQ(unable.submit({.addr = 0, .len = 0}), -EOPNOTSUPP);
}

TEST(Engine, CountsBytes) {
    Fixture fixture;
    fixture.backend.on_run = [](const Call &, upm_counts &counts) {
        counts.merged = 5;
        counts.inserted = 3;
        counts.zero = 2;
        counts.already = 100;
        counts.skipped[UPM_SKIPPED_BUSY] = 1000;
        return 0;
    };
    EXPECT_EQ(fixture.submit({.addr = kPage, .len = kPage}), 0);
    EXPECT_EQ(fixture.counts.bytes, 10 * kPage);
}

// Counts are written in every case: stale ones would be taken for results.
TEST(Engine, ErrorsKeepPartialProgressAndClearOldCounts) {
    Fixture fixture;
    fixture.backend.on_run = [](const Call &, upm_counts &counts) {
        counts.pages = counts.merged = 3;
        return -EINTR;
    };
    EXPECT_EQ(fixture.submit({.addr = kPage, .len = 8 * kPage}), -EINTR);
    EXPECT_EQ(fixture.counts.pages, 3U);
    EXPECT_EQ(fixture.counts.bytes, 3 * kPage);
    EXPECT_EQ(fixture.submit({.addr = kPage, .len = kPage, .flags = 64}), -EINVAL);
    EXPECT_EQ(fixture.counts.pages, 0U);
    EXPECT_EQ(fixture.counts.bytes, 0U);
}

constexpr const char *kKey = "000102030405060708090a0b0c0d0e0f";

TEST(Domains, DefaultIsTheBackends) {
    Fixture fixture;
    (void)fixture.submit({.addr = kPage, .len = kPage});
    EXPECT_EQ(fixture.backend.calls().at(0).domain_fd, -1);
}

TEST(Domains, EnvironmentNamesTheDefault) {
    Fixture fixture({.backend = "fake", .domain = kKey});
    (void)fixture.submit({.addr = kPage, .len = kPage});
    EXPECT_EQ(fixture.backend.calls().at(0).domain_fd, 1000);
}

TEST(Domains, UseGoesBeforeEnvironmentAndOptionBeforeUse) {
    Fixture fixture({.backend = "fake", .domain = kKey});
    EXPECT_EQ(fixture.engine.use_domain(5), 0);
    (void)fixture.submit({.addr = kPage, .len = kPage});
    (void)fixture.submit({.addr = kPage, .len = kPage, .domain_fd = 9});
    EXPECT_EQ(fixture.engine.use_domain(-1), 0);
    (void)fixture.submit({.addr = kPage, .len = kPage});
    const std::vector<Call> calls = fixture.backend.calls();
    ASSERT_EQ(calls.size(), 3U);
    EXPECT_EQ(calls[0].domain_fd, 5);
    EXPECT_EQ(calls[1].domain_fd, 9);
    EXPECT_EQ(calls[2].domain_fd, 1000);
}

// An advise in a descriptor that is no domain must fail when it is chosen, not
// later, in another place of the program.
TEST(Domains, UseRefusesWhatIsNoDomain) {
    Fixture fixture([](FakeBackend &backend) { backend.stats_result = -EBADF; });
    EXPECT_EQ(fixture.engine.use_domain(5), -EBADF);
    EXPECT_EQ(fixture.engine.use_domain(-2), -EINVAL);
    (void)fixture.submit({.addr = kPage, .len = kPage});
    EXPECT_EQ(fixture.backend.calls().at(0).domain_fd, -1);
}

TEST(Domains, BackendWithoutThem) {
    Fixture fixture([](FakeBackend &backend) { backend.can.domains = false; });
    struct upm_stats stats {};
    const std::uint8_t key[16] = {};
    EXPECT_EQ(fixture.engine.use_domain(5), -EOPNOTSUPP);
    EXPECT_EQ(fixture.engine.use_domain(-1), 0);
    EXPECT_EQ(fixture.engine.open_domain(key), -EOPNOTSUPP);
    EXPECT_EQ(fixture.engine.stats(5, stats), -EOPNOTSUPP);
}

// A daemon that closes all descriptors closes the library's, too.
TEST(Domains, ReopensTheOneOfTheEnvironment) {
    Fixture fixture({.backend = "fake", .domain = kKey});
    fixture.backend.on_run = [](const Call &call, upm_counts &counts) {
        return call.domain_fd == 1000 ? -EBADF : FakeBackend::merge(call, counts);
    };
    EXPECT_EQ(fixture.submit({.addr = kPage, .len = kPage}), 0);
    EXPECT_EQ(fixture.counts.merged, 1U);
    EXPECT_EQ(fixture.submit({.addr = kPage, .len = kPage}), 0);
    const std::vector<Call> calls = fixture.backend.calls();
    ASSERT_EQ(calls.size(), 3U);
    EXPECT_EQ(calls[1].domain_fd, 1001);
    EXPECT_EQ(calls[2].domain_fd, 1001);
}

// The first attempt is not in what the caller gets.
TEST(Domains, CountsAreThoseOfTheSecondAttempt) {
    Fixture fixture({.backend = "fake", .domain = kKey});
    fixture.backend.on_run = [](const Call &call, upm_counts &counts) {
        ++counts.merged;
        ++counts.skipped[UPM_SKIPPED_BUSY];
        return call.domain_fd == 1000 ? -EBADF : 0;
    };
    EXPECT_EQ(fixture.submit({.addr = kPage, .len = kPage}), 0);
    EXPECT_EQ(fixture.counts.merged, 1U);
    EXPECT_EQ(fixture.counts.skipped[UPM_SKIPPED_BUSY], 1U);
}

// Two threads find the domain closed: both go on with one, and no descriptor is left.
TEST(Domains, TheSlowerThreadClosesItsOwn) {
    Fixture fixture({.backend = "fake", .domain = kKey});
    fixture.backend.on_run = [](const Call &call, upm_counts &counts) {
        return call.domain_fd == 1000 ? -EBADF : FakeBackend::merge(call, counts);
    };
    int opened[2] = {-1, -1};
    int count = 0;
    fixture.backend.on_open_domain = [&] {
        const int own = count++;
        opened[own] = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
        if (own == 0) { // before this one comes back, another call is through
            upm_counts other{};
            EXPECT_EQ(fixture.engine.submit({.addr = kPage, .len = kPage}, other), 0);
        }
        return opened[own];
    };
    EXPECT_EQ(fixture.submit({.addr = kPage, .len = kPage}), 0);
    ASSERT_EQ(count, 2);
    EXPECT_EQ(fixture.backend.calls().back().domain_fd, opened[1]);
    EXPECT_EQ(::fcntl(opened[0], F_GETFD), -1);
    EXPECT_GE(::fcntl(opened[1], F_GETFD), 0);
    ::close(opened[1]);
}

// A domain of the caller's that has the number of the library's, which was closed.
TEST(Domains, DoesNotReplaceTheChosenOneOfThatNumber) {
    Fixture fixture({.backend = "fake", .domain = kKey});
    EXPECT_EQ(fixture.engine.use_domain(1000), 0);
    fixture.backend.on_run = [](const Call &, upm_counts &) { return -EBADF; };
    EXPECT_EQ(fixture.submit({.addr = kPage, .len = kPage}), -EBADF);
    EXPECT_EQ(fixture.backend.calls().size(), 1U);
    EXPECT_EQ(fixture.backend.domains_opened, 1);
}

// That the caller's own descriptor is closed is the caller's mistake: to merge in
// another domain instead would share memory with strangers.
TEST(Domains, DoesNotReplaceTheCallers) {
    Fixture fixture({.backend = "fake", .domain = kKey});
    fixture.backend.on_run = [](const Call &, upm_counts &) { return -EBADF; };
    EXPECT_EQ(fixture.submit({.addr = kPage, .len = kPage, .domain_fd = 9}), -EBADF);
    EXPECT_EQ(fixture.engine.use_domain(5), 0);
    EXPECT_EQ(fixture.submit({.addr = kPage, .len = kPage}), -EBADF);
    EXPECT_EQ(fixture.backend.calls().size(), 2U);
}

TEST(Engine, InfoTellsTheBackend) {
    Fixture fixture([](FakeBackend &backend) { backend.can.remote = false; });
    struct upm_info info {};
    fixture.engine.info(info);
    EXPECT_STREQ(info.backend, "fake");
    EXPECT_STREQ(info.reason, "UPM_BACKEND=fake: works");
    EXPECT_EQ(info.page_size, kPage);
    EXPECT_EQ(info.immediate, 1U);
    EXPECT_EQ(info.remote, 0U);
    EXPECT_EQ(info.unmerge, 1U);
    EXPECT_EQ(info.dry_run, 1U);
    EXPECT_EQ(info.domains, 1U);
    EXPECT_EQ(info.file_pages, 1U);
}

TEST(Engine, StatsAreThoseOfTheDomainInUse) {
    Fixture fixture;
    struct upm_stats stats {};
    EXPECT_EQ(fixture.engine.stats(-1, stats), 0);
    EXPECT_EQ(stats.pages_shared, 99U);
    (void)fixture.engine.use_domain(5);
    EXPECT_EQ(fixture.engine.stats(-1, stats), 0);
    EXPECT_EQ(stats.pages_shared, 105U);
    EXPECT_EQ(fixture.engine.stats(7, stats), 0);
    EXPECT_EQ(stats.pages_shared, 107U);
}

} // namespace

} // namespace upm::test
