// SPDX-License-Identifier: MIT
//
// Shared pages that nobody maps any more: when the module looks for them, and that nobody
// can keep it from that. When which domain was looked at stands in the kernel's trace.
#include "tests/kmod/support/actor.hpp"
#include "tests/kmod/support/sweep_trace.hpp"

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <unistd.h>

namespace upm::test {

namespace {

constexpr std::size_t kPages = 32;

class Sweeps : public KmodTest {
  protected:
    Pattern pattern_{Content::kDistinct, fresh_seed()};
};

// Opens the device and closes it, each time after a call that changes nothing: so the
// domain of this process is swept soon after.
void kick_for_ever() {
    while (true)
        static_cast<void>(Device().stats());
}

// A process that kicks all the time, on a processor of its own, and ahead of everybody there.
Process kicker(uid_t uid) {
    Process busy([uid] {
        cpu_set_t last;
        CPU_ZERO(&last);
        CPU_SET(::get_nprocs() - 1, &last);
        must(::sched_setaffinity(0, sizeof(last), &last), "sched_setaffinity");
        must(::setpriority(PRIO_PROCESS, 0, -20), "setpriority");
        must(::setresuid(uid, uid, uid), "setresuid");
    });
    busy.start(&kick_for_ever);
    return busy;
}

// A page that nobody maps any more goes by a sweep, and only then.
TEST_F(Sweeps, SweepFreesWhatNobodyMaps) {
    const Knob knob("sweep_ms", 0);
    Actor a(Kind::kAnonymous, pattern_, kPages);
    a.advise();
    EXPECT_EQ(statistic("pages_shared"), kPages);
    EXPECT_EQ(a.unmerge().counts.unmerged, kPages);
    EXPECT_EQ(statistic("pages_shared"), 0U);
    EXPECT_EQ(statistic("pages_unused"), kPages);
    const std::uint64_t freed = statistic("pages_freed");
    ASSERT_TRUE(eventually([] { // batched references go a moment later
        sweep();
        return statistic("pages_unused") == 0;
    }));
    EXPECT_EQ(statistic("pages_freed"), freed + kPages);
    EXPECT_EQ(a.advise().counts.inserted, kPages);
}

// Others may open and close the device as often as they like, each time with a call that has
// a domain swept, theirs or their neighbour's: the sweep comes when it is due.
TEST_F(Sweeps, NobodyPostponesTheSweep) {
    const Knob knob("sweep_ms", 100);
    for (const uid_t uid : {uid_t{0}, uid_t{1001}}) {
        SCOPED_TRACE("user " + std::to_string(uid));
        ASSERT_TRUE(eventually([] {
            sweep();
            return statistic("pages_shared") + statistic("pages_unused") == 0;
        }));
        Actor a(Kind::kAnonymous, pattern_, kPages);
        a.advise();
        const std::uint64_t freed = statistic("pages_freed");
        const Process busy = kicker(uid);
        double longest = 0;
        for (std::uint64_t round = 1; round <= 5; round++) {
            EXPECT_EQ(a.unmerge().counts.unmerged, kPages);
            const double start = now();
            ASSERT_TRUE(
                eventually([&] { return statistic("pages_freed") >= freed + round * kPages; }));
            longest = std::max(longest, now() - start);
            EXPECT_EQ(a.advise().counts.inserted, kPages);
        }
        RecordProperty("longest_ms_" + std::to_string(uid), static_cast<int>(longest * 1000));
    }
}

// A descriptor that is closed makes the module look at the domain that it worked in, and
// at no other.
TEST_F(Sweeps, CloseSweepsItsOwnDomain) {
    const Knob knob("sweep_ms", 0);
    const auto advise_and_end = [&](int key) {
        const Device device;
        const Fd domain = device.domain(std::string(16, static_cast<char>(key)));
        const Mapping memory(kPages * kPage);
        memory.fill(pattern_);
        return device.advise(memory.base(), memory.len(), {.domain = domain.get()});
    };
    Actor other(Kind::kAnonymous, {Content::kDistinct, fresh_seed()}, kPages);
    other.advise();
    EXPECT_EQ(other.unmerge().counts.unmerged, kPages);
    EXPECT_TRUE(eventually([] { return statistic("pages_unused") == kPages; }));
    const std::uint64_t freed = statistic("pages_freed");
    for (int key = 1; key <= 2; key++)
        EXPECT_EQ(advise_and_end(key).counts.inserted, kPages);
    EXPECT_TRUE(eventually([&] { return statistic("pages_freed") >= freed + 2 * kPages; }));
    EXPECT_EQ(statistic("pages_unused"), kPages);
    EXPECT_EQ(statistic("pages_shared"), 0U);
}

// Without a word, too: by the end of the process alone.
TEST_F(Sweeps, EndOfTheProcessFrees) {
    {
        const Knob knob("sweep_ms", 0);
        Actor a(Kind::kAnonymous, pattern_, kPages);
        a.advise();
    }
    EXPECT_TRUE(eventually(
        [] { return statistic("pages_shared") == 0 && statistic("pages_unused") == 0; }));
}

// ---- domains in which nothing happens ------------------------------------------------

// Periodic sweeps that such a domain sits out at most.
constexpr unsigned kRestMax = 15;

class Rests : public KmodTest {
  protected:
    void SetUp() override {
        KmodTest::SetUp();
        if (!trace_)
            GTEST_SKIP() << "no tracefs with instances";
    }

    // Waits until so many periodic sweeps began since the mark.
    void wait_for(const std::string &mark, unsigned periods) const {
        ASSERT_TRUE(eventually([&] { return trace_.read().periods(mark) >= periods; })) << mark;
    }
    // Waits until the domain has long been quiet.
    void wait_until_at_rest(const std::string &mark, std::uint64_t domain) const {
        ASSERT_TRUE(eventually([&] {
            const std::vector<unsigned> gaps = gaps_of(trace_.read().periodic_looks(mark, domain));
            return !gaps.empty() && gaps.back() > kRestMax / 2;
        })) << mark;
    }
    // Did the first sweep look that began after a call, or one that ran while the call did?
    [[nodiscard]] testing::AssertionResult
    next_looks(const std::string &before, const std::string &after, std::uint64_t domain) const {
        const SweepLog log = trace_.read();
        const std::vector<Look> looks = log.periodic_looks(after, domain);
        if (log.looks(before, domain).size() > log.looks(after, domain).size() ||
            (!looks.empty() && looks.front().period <= 1))
            return testing::AssertionSuccess();
        return testing::AssertionFailure()
               << "between " << before << " and " << after << " of " << domain << ":\n"
               << log.text();
    }
    // Periods from each look to the next.
    static std::vector<unsigned> gaps_of(const std::vector<Look> &looks) {
        std::vector<unsigned> gaps;
        for (std::size_t i = 1; i < looks.size(); i++)
            gaps.push_back(looks[i].period - looks[i - 1].period);
        return gaps;
    }

    SweepTrace trace_;
    Knob often_{"sweep_ms", 20};
    Pattern pattern_{Content::kDistinct, fresh_seed()};
};

// The id of the only domain that there is, once the folder of one that just ended is gone.
std::uint64_t only_domain() {
    std::vector<std::string> ids;
    EXPECT_TRUE(eventually([&] {
        ids.clear();
        for (const auto &entry : std::filesystem::directory_iterator(kSysfs + "domains"))
            ids.push_back(entry.path().filename().string());
        return ids.size() == 1;
    }));
    return std::stoull(ids.at(0));
}

// It is looked at ever less often, and yet again and again.
TEST_F(Rests, AQuietDomainSitsOutSweeps) {
    Actor a(Kind::kAnonymous, pattern_, kPages);
    EXPECT_EQ(a.advise().counts.inserted, kPages);
    trace_.mark("quiet");
    wait_for("quiet", 4 * (kRestMax + 1));
    const std::vector<Look> looks = trace_.read().periodic_looks("quiet", only_domain());
    const std::vector<unsigned> gaps = gaps_of(looks);
    ASSERT_FALSE(gaps.empty());
    EXPECT_EQ(*std::ranges::max_element(gaps), kRestMax + 1);
    EXPECT_TRUE(std::ranges::is_sorted(gaps));
    EXPECT_LE(looks.size(), 8U); // at 1, 3, 7, 15, 31, 47, 63
    for (const Look &look : looks)
        EXPECT_EQ(look.freed, 0U);
}

// The first sweep after a call in it looks at it.
TEST_F(Rests, ACallWakesADomain) {
    Actor a(Kind::kAnonymous, pattern_, kPages);
    a.advise();
    trace_.mark("advised");
    const std::uint64_t domain = only_domain();
    std::string mark = "advised";
    for (const std::uint32_t flags : {0U, 0U, std::uint32_t{UPM_ADVISE_DRY_RUN}, 0U}) {
        wait_until_at_rest(mark, domain);
        const std::string begun = mark + " again";
        mark = begun + ", done";
        trace_.mark(begun);
        EXPECT_EQ(a.advise({.flags = flags}).counts.already, kPages);
        trace_.mark(mark);
        wait_for(mark, 2);
        EXPECT_TRUE(next_looks(begun, mark, domain)) << mark;
    }
}

// Nobody tells the module of an unmap by a program that lives on; it is found by the next
// look, and then the domain is looked at as before.
TEST_F(Rests, WhatIsUnmappedIsFoundByTheNextLook) {
    Process program;
    std::byte *memory = program.call(
        +[](std::uint64_t seed) {
            static const Device device; // both stay
            static const Mapping mapping(kPages * kPage);
            mapping.fill({Content::kDistinct, seed});
            EXPECT_EQ(device.advise(mapping.base(), mapping.len()).counts.inserted, kPages);
            return mapping.base();
        },
        fresh_seed());
    trace_.mark("advised");
    const std::uint64_t domain = only_domain();
    wait_until_at_rest("advised", domain);
    const std::uint64_t freed = statistic("pages_freed");
    program.call(
        +[](std::byte *half) { must(::munmap(half, kPages / 2 * kPage), "munmap"); },
        memory + kPages / 2 * kPage);
    trace_.mark("unmapped");
    ASSERT_TRUE(eventually([&] { return statistic("pages_freed") == freed + kPages / 2; }));
    wait_for("unmapped", trace_.read().periods("unmapped") + 4);
    const SweepLog log = trace_.read();
    const std::vector<Look> looks = log.periodic_looks("advised", domain);
    const auto found = std::ranges::find_if(looks, [](const Look &look) { return look.freed > 0; });
    ASSERT_NE(found, looks.end());
    EXPECT_LE(log.periodic_looks("unmapped", domain).front().period, kRestMax + 1);
    ASSERT_NE(found + 1, looks.end());
    EXPECT_EQ((found + 1)->period, found->period + 1);
}

// Somebody in the domain who opens and closes the device all the time has it looked at. That
// those looks find nothing does not send it to rest: the periodic sweep looks as it would
// without them.
TEST_F(Rests, NobodySendsADomainToRest) {
    Actor a(Kind::kAnonymous, pattern_, kPages);
    const Process busy = kicker(0);
    trace_.mark("begun");
    a.advise();
    trace_.mark("advised");
    const std::uint64_t domain = only_domain();
    wait_for("advised", 2 * kRestMax);
    const SweepLog log = trace_.read();
    const std::vector<Look> all = log.looks("begun", domain);
    EXPECT_TRUE(std::ranges::any_of(all, [](const Look &look) { return !look.periodic; }));
    EXPECT_TRUE(next_looks("begun", "advised", domain));
    const std::vector<unsigned> gaps = gaps_of(log.periodic_looks("begun", domain));
    ASSERT_GE(gaps.size(), 3U);
    for (unsigned i = 0; i < 3; i++)
        EXPECT_LE(gaps[i], 2U << i) << "after look " << i + 1;
}

} // namespace

} // namespace upm::test
