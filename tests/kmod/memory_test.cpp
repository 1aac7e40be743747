// SPDX-License-Identifier: MIT
//
// When memory is short: limits of a cgroup, swap, reclaim. Merging then does less,
// and says so, but what it does is right.
#include "tests/kmod/support/actor.hpp"
#include "tests/kmod/support/cgroup.hpp"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fstream>
#include <string>

#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

namespace upm::test {

namespace {

constexpr std::size_t kBig = 1024; // pages

class MemoryPressure : public KmodTest {};

// ---- memory cgroups --------------------------------------------------------------

// A limit that leaves next to no room: pages are skipped for want of memory, nobody is
// killed, and no byte is lost. With room again the rest is merged.
TEST_F(MemoryPressure, CgroupAtItsLimit) {
    const Cgroup cgroup;
    if (!cgroup)
        GTEST_SKIP() << "no memory controller of cgroup v2";
    Process child([&] { cgroup.join(::getpid()); });
    Region *region = child.call(
        +[](std::uint64_t seed) {
            return new Region(Kind::kAnonymous, {Content::kDistinct, seed}, kBig);
        },
        fresh_seed());
    cgroup.limit(cgroup.current() + 16 * kPage);
    child.call(
        +[](Region *r) {
            const Advice advice = Device().advise(r->base(), r->len());
            EXPECT_TRUE(advice.error == 0 || advice.error == ENOMEM) << advice.error;
            if (advice.error == 0) {
                EXPECT_EQ(advice.done() + advice.skipped(UPM_SKIP_NOMEM), kBig);
            }
            r->check();
        },
        region);
    EXPECT_FALSE(cgroup.killed_any());
    cgroup.unlimited();
    child.call(
        +[](Region *r) {
            EXPECT_EQ(Device().advise(r->base(), r->len()).done(), kBig);
            r->check();
        },
        region);
}

// A program that never has more than fits into its cgroup is not killed because it advised.
// The shared pages that it does not map any more are charged to the group, so they go when
// it is at its limit: without a sweep, and without any memory short elsewhere.
TEST_F(MemoryPressure, UnusedPagesGoBeforeTheKill) {
    constexpr std::size_t kMany = 8 * kBig;
    const Knob no_sweep("sweep_ms", 0);
    for (const bool reload : {false, true}) {
        const Cgroup cgroup;
        if (!cgroup)
            GTEST_SKIP() << "no memory controller of cgroup v2";
        Process child([&] { cgroup.join(::getpid()); });
        const auto make = +[](std::uint64_t seed) {
            auto *memory = new Mapping(kMany * kPage);
            memory->fill({Content::kDistinct, seed});
            return memory;
        };
        Mapping *memory = child.call(make, fresh_seed());
        cgroup.limit(cgroup.current() + kMany / 4 * kPage);
        child.call(
            +[](Mapping *m) {
                static const Device device; // stays open: its end would set off a sweep
                const Advice advice = device.advise(m->base(), m->len());
                EXPECT_EQ(advice.error, 0);
                EXPECT_EQ(advice.counts.inserted + advice.skipped(UPM_SKIP_NOMEM), m->pages());
                EXPECT_GT(advice.counts.inserted, m->pages() * 9 / 10);
            },
            memory);
        const std::uint64_t freed = statistic("pages_freed");
        if (reload) {
            child.call(
                +[](Mapping *m) { delete m; }, memory);
            child.call(make, fresh_seed());
        } else {
            child.call(
                +[](Mapping *m) {
                    for (std::size_t page = 0; page < m->pages(); page++)
                        *m->page(page) = std::byte{1};
                },
                memory);
        }
        EXPECT_FALSE(cgroup.killed_any());
        EXPECT_GT(statistic("pages_freed"), freed + kMany / 2);
    }
}

// Merging in a small cgroup: what is shared is charged once, to who inserted it, and
// what was merged is given back to the group.
TEST_F(MemoryPressure, CgroupGetsItsMemoryBack) {
    const Cgroup cgroup;
    if (!cgroup)
        GTEST_SKIP() << "no memory controller of cgroup v2";
    const Pattern pattern{Content::kDistinct, fresh_seed()};
    Actor outside(Kind::kAnonymous, pattern, kBig);
    EXPECT_EQ(outside.advise().counts.inserted, kBig);
    Actor inside(Kind::kAnonymous, pattern, kBig, [&] { cgroup.join(::getpid()); });
    const std::uint64_t before = cgroup.current();
    EXPECT_EQ(inside.advise().counts.merged, kBig);
    // The kernel counts in batches of up to 64 pages for each processor.
    EXPECT_TRUE(eventually([&] { return cgroup.current() + (kBig - 256) * kPage < before; }))
        << before << " before, " << cgroup.current() << " after";
    // All may be written to again only if there is room for the copies.
    inside.check();
    for (std::size_t i = 0; i < kBig; i += 7)
        inside.write(i, i);
    inside.check();
    outside.check();
}

// What an agent merges is charged to the process whose memory it was: else a container
// would grow into the agent's limit.
TEST_F(MemoryPressure, AgentChargesTheTarget) {
    const Cgroup cgroup;
    if (!cgroup)
        GTEST_SKIP() << "no memory controller of cgroup v2";
    Actor inside(Kind::kAnonymous, {Content::kDistinct, fresh_seed()}, kBig,
                 [&] { cgroup.join(::getpid()); });
    const std::uint64_t before = cgroup.current();
    const Device agent;
    const Advice advice = agent.advise(inside.base(), inside.len(), {.pid = inside.pid()});
    EXPECT_EQ(advice.counts.inserted, kBig);
    // The kernel counts in batches of up to 64 pages for each processor.
    EXPECT_GE(cgroup.current() + 256 * kPage, before);
    inside.check();
}

// How many pages of a group's are more than before, about: the kernel counts in batches of up
// to 64 pages for each processor.
testing::AssertionResult grown_by(const Cgroup &cgroup, std::uint64_t before, std::size_t pages) {
    constexpr std::size_t kSlack = 256 * kPage;
    std::uint64_t now = 0;
    if (eventually([&] {
            now = cgroup.current();
            return now + kSlack >= before + pages * kPage && now <= before + pages * kPage + kSlack;
        }))
        return testing::AssertionSuccess();
    return testing::AssertionFailure()
           << before << " before, " << now << " now, not " << pages << " pages more";
}

// Opens the domain of a key, which is two numbers, and keeps it.
int keep_domain(std::uint64_t low, std::uint64_t high) {
    std::string key(16, '\0');
    std::memcpy(key.data(), &low, sizeof(low));
    std::memcpy(key.data() + sizeof(low), &high, sizeof(high));
    static const Device device;
    return device.domain(key).release();
}

// Who pays for what is inserted into a named domain: who inserts it, or who made the domain.
TEST_F(MemoryPressure, WhoPaysForANamedDomain) {
    const std::uint64_t key = fresh_seed();
    for (const bool maker_pays : {false, true}) {
        const Knob knob("charge_to", maker_pays ? "domain" : "first");
        const Cgroup platform("platform");
        const Cgroup tenant("tenant");
        if (!platform)
            GTEST_SKIP() << "no memory controller of cgroup v2";
        Process maker([&] { platform.join(::getpid()); });
        EXPECT_GE(maker.call(&keep_domain, key, std::uint64_t{maker_pays}), 0);
        Actor a(Kind::kAnonymous, {Content::kDistinct, fresh_seed()}, 2 * kBig,
                [&] { tenant.join(::getpid()); });
        const int domain = a.call(&keep_domain, key, std::uint64_t{maker_pays});
        const std::uint64_t of_platform = platform.current();
        const std::uint64_t of_tenant = tenant.current();
        EXPECT_EQ(a.advise({.domain = domain}).counts.inserted, 2 * kBig);
        // The tenant's own pages are gone, and it has the shared ones, or not.
        EXPECT_TRUE(grown_by(platform, of_platform, maker_pays ? 2 * kBig : 0)) << maker_pays;
        if (maker_pays) {
            EXPECT_TRUE(grown_by(tenant, of_tenant - 2 * kBig * kPage, 0));
        } else {
            EXPECT_TRUE(grown_by(tenant, of_tenant, 0));
        }
        a.check();
        // What a load inserts is paid for by the same one.
        a.call(
            +[](int to, std::size_t pages) {
                static const Mapping into(pages * kPage);
                const Fd file = temporary_file({Content::kDistinct, fresh_seed()}, pages);
                EXPECT_EQ(device().load(file.get(), 0, into.base(), into.len(), to).counts.inserted,
                          pages);
            },
            domain, std::size_t{2 * kBig});
        EXPECT_TRUE(grown_by(platform, of_platform, maker_pays ? 4 * kBig : 0)) << maker_pays;
    }
}

// A domain of the policy cgroup is one of all groups below that at its depth, which pays for
// it: not the group of the one that came first.
TEST_F(MemoryPressure, WhoPaysForADomainOfAGroup) {
    const Knob depth("domain_cgroup_depth", 1);
    const Knob policy("domain_policy", "cgroup");
    for (const bool domain_pays : {false, true}) {
        const Knob knob("charge_to", domain_pays ? "domain" : "first");
        const Cgroup pod("pod");
        if (!pod)
            GTEST_SKIP() << "no memory controller of cgroup v2";
        const Cgroup first("first", pod);
        Actor a(Kind::kAnonymous, {Content::kDistinct, fresh_seed()}, 2 * kBig,
                [&] { first.join(::getpid()); });
        const std::uint64_t of_first = first.current();
        const std::uint64_t of_pod = pod.current();
        EXPECT_EQ(a.advise().counts.inserted, 2 * kBig);
        EXPECT_TRUE(grown_by(first, of_first - (domain_pays ? 2 * kBig * kPage : 0), 0));
        EXPECT_TRUE(grown_by(pod, of_pod, 0));
        a.check();
    }
}

// What a few processes share since a fork is one more copy when the first of them advises,
// and none when the last has: their old pages are gone then.
TEST_F(MemoryPressure, AFamilyEndsWithoutACopy) {
    const Cgroup cgroup("family");
    if (!cgroup)
        GTEST_SKIP() << "no memory controller of cgroup v2";
    Actor parent(Kind::kAnonymous, {Content::kDistinct, fresh_seed()}, 2 * kBig,
                 [&] { cgroup.join(::getpid()); });
    struct Family {
        std::array<int, 2> turn{};
        std::array<int, 2> done{};
    };
    static Family family; // of the parent's, and so of its children
    parent.call(+[] {
        must(::pipe(family.turn.data()), "pipe");
        must(::pipe(family.done.data()), "pipe");
        for (int i = 0; i < 3; i++) {
            if (fork_tied() != 0)
                continue;
            char byte = 0;
            static_cast<void>(::read(family.turn[0], &byte, 1));
            const Region &r = region();
            byte = device().advise(r.base(), r.len()).done() == r.pages() && r.first_wrong() < 0;
            static_cast<void>(::write(family.done[1], &byte, 1));
            ::pause();
        }
    });
    const std::uint64_t before = cgroup.current();
    for (int i = 0; i < 3; i++) {
        EXPECT_EQ(parent.call(+[] {
            char byte = 1;
            static_cast<void>(::write(family.turn[1], &byte, 1));
            static_cast<void>(::read(family.done[0], &byte, 1));
            return byte;
        }),
                  1);
        EXPECT_TRUE(grown_by(cgroup, before, 2 * kBig)) << i;
    }
    EXPECT_EQ(parent.advise().counts.merged, 2 * kBig);
    EXPECT_TRUE(grown_by(cgroup, before, 0));
    parent.check();
}

// ---- reclaim -----------------------------------------------------------------------

// Shared pages that nobody maps go when the kernel looks for memory.
TEST_F(MemoryPressure, ShrinkerFreesUnusedPages) {
    constexpr std::size_t kPages = 256;
    const Knob knob("sweep_ms", 0);
    const Device open; // who closes it kicks a sweep
    Actor actor(Kind::kAnonymous, {Content::kDistinct, fresh_seed()}, kPages);
    ASSERT_EQ(actor.advise().counts.inserted, kPages);
    actor.call(+[] { must(::munmap(region().base(), region().len()), "munmap"); });
    EXPECT_EQ(statistic("pages_unused"), kPages);
    EXPECT_TRUE(eventually([] {
        write_file("/proc/sys/vm/drop_caches", "2"); // runs the shrinkers
        return statistic("pages_unused") == 0;
    }));
    actor.call(+[] { region().mapping().moved(nullptr, 0); });
}

// A process that takes nearly all memory, with merging going on beside it.
TEST_F(MemoryPressure, NearlyFullMachine) {
    const Pattern pattern{Content::kMixed, fresh_seed()};
    Actor a(Kind::kAnonymous, pattern, kBig);
    Actor b(Kind::kFileClean, pattern, kBig);
    Process hog([] {
        // Should the estimate be wrong, the hog is to go.
        write_file("/proc/self/oom_score_adj", "1000");
    });
    hog.start(
        +[](std::uint64_t bytes) {
            const Mapping mapping(bytes / kPage * kPage);
            for (std::size_t i = 0; i < mapping.pages(); i++)
                mapping.page(i)[0] = std::byte{1};
            const double end = now() + test_seconds(2);
            while (now() < end)
                for (std::size_t i = 0; i < mapping.pages(); i += 64)
                    mapping.page(i)[1] = std::byte{2};
        },
        meminfo("MemAvailable") - (48U << 20));
    for (int round = 0; round < 6; round++) {
        for (Actor *actor : {&a, &b}) {
            EXPECT_EQ(actor->advise().error, 0);
            actor->check();
            actor->write(static_cast<std::size_t>(round), static_cast<std::uint64_t>(round));
        }
        write_file("/proc/sys/vm/drop_caches", "1");
    }
    try {
        hog.finish<void>();
    } catch (const std::exception &e) {
        std::cout << "the hog: " << e.what() << '\n';
    }
    a.check();
    b.check();
}

// ---- swap ----------------------------------------------------------------------------

constexpr std::size_t kPages = 64;

class Swap : public KmodTest {
  protected:
    void SetUp() override {
        KmodTest::SetUp();
        if (meminfo("SwapTotal") == 0)
            GTEST_SKIP() << "no swap";
    }
};

// Asks for pages to be swapped out until most of them are.
std::size_t page_out(const Region &region) {
    std::size_t out = 0;
    eventually([&] {
        must(::madvise(region.base(), region.len(), MADV_PAGEOUT), "MADV_PAGEOUT");
        const auto swapped = swapped_of(0, region.base(), region.pages());
        out = static_cast<std::size_t>(std::count(swapped.begin(), swapped.end(), true));
        return out > region.pages() / 2;
    });
    return out;
}

// What is in swap stays there: to merge it would mean to read it.
TEST_F(Swap, SwappedPagesAreSkipped) {
    Process child;
    child.call(+[] {
        const Region region(Kind::kAnonymous, {Content::kDistinct, fresh_seed()}, kPages);
        const std::size_t out = page_out(region);
        EXPECT_GT(out, kPages / 2);
        const Device upm;
        const Advice advice = upm.advise(region.base(), region.len());
        EXPECT_EQ(advice.error, 0);
        EXPECT_GT(advice.skipped(UPM_SKIP_SWAPPED), 0U);
        EXPECT_EQ(advice.done() + advice.skipped(UPM_SKIP_SWAPPED) + advice.skipped(UPM_SKIP_BUSY),
                  kPages);
        region.check(); // which brings them back
        EXPECT_TRUE(
            eventually([&] { return upm.advise(region.base(), region.len()).done() == kPages; }));
        region.check();
    });
}

// Merged pages cannot be swapped out; what was written again can, and comes back.
TEST_F(Swap, MergedPagesStay) {
    const Pattern pattern{Content::kDistinct, fresh_seed()};
    Actor a(Kind::kAnonymous, pattern, kPages);
    Actor b(Kind::kAnonymous, pattern, kPages);
    a.advise();
    b.advise();
    a.call(+[] {
        Region &r = region();
        must(::madvise(r.base(), r.len(), MADV_PAGEOUT), "MADV_PAGEOUT");
    });
    EXPECT_EQ(equal_frames(a.frames(), b.frames()), kPages);
    a.check();
    a.call(+[] {
        Region &r = region();
        for (std::size_t i = 0; i < r.pages(); i++)
            r.write(i, i);
        EXPECT_GT(page_out(r), r.pages() / 2);
        r.check();
    });
    b.check();
}

// Swapping and merging on the same memory, over and over.
TEST_F(Swap, SwapRacesWithAdvise) {
    Process child;
    child.call(
        +[](double seconds) {
            Region region(Kind::kAnonymous, {Content::kMixed, fresh_seed()}, kPages);
            const Device upm;
            Random random(3);
            const double end = now() + seconds;
            for (unsigned round = 0; now() < end || round < 20; round++) {
                must(::madvise(region.base(), region.len(), MADV_PAGEOUT), "MADV_PAGEOUT");
                EXPECT_EQ(upm.advise(region.base(), region.len()).error, 0);
                for (int i = 0; i < 20; i++)
                    region.write(random.below(kPages), round);
                EXPECT_EQ(upm.advise(region.base(), region.len()).error, 0);
                ASSERT_EQ(region.first_wrong(), -1) << "round " << round;
            }
        },
        test_seconds(3));
}

} // namespace

} // namespace upm::test
