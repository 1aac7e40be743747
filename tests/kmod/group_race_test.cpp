// SPDX-License-Identifier: MIT
//
// Memory cgroups that end while shared pages are charged to them. The kernel hands the list
// of such a group's entries to its parent (list_lru), while sweeps and the shrinker of all
// groups walk over it and the pages are unmapped: the kernel log stays clean, who still maps
// them keeps each byte, and nothing is left behind.
#include "tests/kmod/support/actor.hpp"
#include "tests/kmod/support/cgroup.hpp"

#include <optional>
#include <string>

#include <sys/mman.h>

namespace upm::test {

namespace {

constexpr std::size_t kPages = 192;
constexpr unsigned kRounds = 8;

class GroupRaces : public KmodTest {};

// Frees what nobody maps, by each of the ways that there are, for a while.
void free_all_the_time(double seconds) {
    const double end = now() + seconds;
    for (unsigned round = 0; now() < end || round < kRounds; round++) {
        write_file("/proc/sys/vm/drop_caches", "2"); // the shrinkers, for each group
        if (round % 2 == 0)
            sweep();
        read_file(kSysfs + "pages_sharing");
    }
}

// Another one comes to share what a process in a group inserted. Group and process end,
// with all of it mapped, with a part, or after the other one.
void one_group(unsigned round) {
    const Pattern pattern{Content::kDistinct, fresh_seed()};
    std::optional<Actor> outside;
    outside.emplace(Kind::kAnonymous, pattern, kPages);
    {
        const Cgroup outer("outer" + std::to_string(round));
        const Cgroup inner("inner", outer);
        Actor inside(Kind::kAnonymous, pattern, kPages, [&] { inner.join(::getpid()); });
        EXPECT_GT(inside.advise().counts.inserted, kPages / 2);
        EXPECT_GT(outside->advise().counts.merged, kPages / 2);
        if (round % 3 == 1)
            inside.call(+[] {
                EXPECT_EQ(::madvise(region().base(), kPages / 2 * kPage, MADV_DONTNEED), 0);
                region().expect_zeros(0, kPages / 2);
            });
        if (round % 3 == 2)
            outside.reset();
        else
            inside.check();
    }
    if (!outside)
        return;
    outside->check();
    outside->write(round % kPages, round);
    EXPECT_EQ(outside->advise().error, 0);
    outside->check();
}

TEST_F(GroupRaces, GroupsEnd) {
    if (!Cgroup())
        GTEST_SKIP() << "no memory controller of cgroup v2";
    const Knob sweeping("sweep_ms", 10);
    const double seconds = test_seconds(4);
    Process child;
    child.start(&free_all_the_time, seconds);
    const double end = now() + seconds;
    for (unsigned round = 0; now() < end || round < kRounds; round++) {
        one_group(round);
        if (testing::Test::HasFailure())
            break;
    }
    child.finish<void>();
}

} // namespace

} // namespace upm::test
