// SPDX-License-Identifier: MIT
//
// /sys/kernel/upm: knobs, limits, the emergency brake, and the dry run, which
// tells what an advise would do.
#include "tests/kmod/support/actor.hpp"

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

#include <fcntl.h>
#include <sched.h>
#include <unistd.h>

namespace upm::test {

namespace {

constexpr std::size_t kPages = 32;

class KnobTest : public KmodTest {
  protected:
    Pattern pattern_{Content::kDistinct, fresh_seed()};
};

// What is out of range, or no number, is refused and changes nothing.
TEST_F(KnobTest, BadValues) {
    const std::pair<const char *, const char *> bad[] = {
        {"enabled", "2"},         {"enabled", "-1"},       {"enabled", "yes please"},
        {"batch_pages", "0"},     {"batch_pages", "513"},  {"batch_pages", ""},
        {"sweep_ms", "3600001"},  {"charge", "2"},         {"max_pages", "18446744073709551616"},
        {"domain_policy", "all"}, {"domain_policy", "ui"}, {"unmerge", "0"},
        {"sweep", "maybe"},       {"stats_reset", "2"},    {"charge_to", "nobody"},
    };
    for (const auto &[name, value] : bad) {
        const std::string path = kSysfs + name;
        const bool readable = std::string(name) != "unmerge" && std::string(name) != "sweep" &&
                              std::string(name) != "stats_reset";
        const std::string before = readable ? read_file(path) : "";
        const int error = write_file(path, value);
        // An empty write never reaches the file.
        if (*value != '\0') {
            EXPECT_TRUE(error == EINVAL || error == ERANGE) << name << " " << value;
        }
        if (readable) {
            EXPECT_EQ(read_file(path), before) << name;
        }
    }
}

TEST_F(KnobTest, Disabled) {
    Actor a(Kind::kAnonymous, pattern_, kPages);
    Actor b(Kind::kAnonymous, pattern_, kPages);
    a.advise();
    {
        const Knob knob("enabled", 0);
        EXPECT_EQ(b.advise().error, EOPNOTSUPP);
        EXPECT_EQ(b.advise({.flags = UPM_ADVISE_DRY_RUN}).error, EOPNOTSUPP);
        EXPECT_EQ(equal_frames(a.frames(), b.frames()), 0U);
        // The way back stays open.
        EXPECT_EQ(a.unmerge().counts.unmerged, kPages);
    }
    EXPECT_EQ(b.advise().error, 0);
}

// Over a limit, new content stays private; known content still merges.
TEST_F(KnobTest, Limits) {
    for (const char *limit : {"max_pages", "domain_max_pages"}) {
        // What nobody maps any more counts until it is swept.
        ASSERT_TRUE(eventually([] {
            sweep();
            return statistic("pages_unused") == 0;
        }));
        const Pattern pattern{Content::kDistinct, fresh_seed()};
        Actor a(Kind::kAnonymous, pattern, kPages);
        Actor b(Kind::kAnonymous, pattern, kPages);
        const Knob knob(limit, 10);
        const Advice first = a.advise();
        EXPECT_EQ(first.error, 0);
        EXPECT_EQ(first.counts.inserted, 10U) << limit;
        EXPECT_EQ(first.skipped(UPM_SKIP_LIMIT), kPages - 10);
        const Advice second = b.advise();
        EXPECT_EQ(second.counts.merged, 10U);
        EXPECT_EQ(second.skipped(UPM_SKIP_LIMIT), kPages - 10);
        EXPECT_EQ(statistic("pages_shared"), 10U);
        a.check();
        b.check();
    }
}

// The emergency brake: every process has private memory again, and no advise
// works until merging is enabled again.
TEST_F(KnobTest, EmergencyBrake) {
    Actor a(Kind::kAnonymous, pattern_, kPages);
    Actor b(Kind::kHuge, {Content::kMixed, fresh_seed()}, 512);
    Actor c(Kind::kFileClean, pattern_, kPages);
    for (Actor *actor : {&a, &b, &c})
        EXPECT_EQ(actor->advise().done(), actor->pages());
    EXPECT_EQ(equal_frames(a.frames(), c.frames()), kPages);
    EXPECT_EQ(write_file(kSysfs + "unmerge", "1"), 0);
    EXPECT_EQ(read_file(kSysfs + "enabled"), "0\n");
    EXPECT_EQ(statistic("pages_shared"), 0U);
    EXPECT_EQ(common_frames(a.frames(), c.frames()), 0U);
    EXPECT_EQ(a.advise().error, EOPNOTSUPP);
    for (Actor *actor : {&a, &b, &c})
        actor->check();
    EXPECT_EQ(write_file(kSysfs + "enabled", "1"), 0);
    EXPECT_EQ(a.advise().done(), kPages);
}

// Pulled while a call runs, the brake stops it at its next batch, and undoes the ones
// before: nothing is shared when the write returns, nor later.
TEST_F(KnobTest, BrakeStopsACallInFlight) {
    constexpr std::size_t kMany = 16'384;
    const Knob knob("batch_pages", 4);
    Actor actor(Kind::kAnonymous, pattern_, kMany);
    const std::uint64_t before = statistic("batches");
    actor.start_advise();
    ASSERT_TRUE(eventually([&] { return statistic("batches") > before + 4; }));
    EXPECT_EQ(write_file(kSysfs + "unmerge", "1"), 0);
    EXPECT_EQ(statistic("pages_shared"), 0U);
    const Advice advice = actor.finish_advise();
    EXPECT_EQ(advice.error, EOPNOTSUPP);
    EXPECT_GT(advice.counts.inserted, 0U);
    EXPECT_LT(advice.counts.pages, kMany);
    EXPECT_EQ(statistic("pages_shared"), 0U);
    actor.check();
    EXPECT_EQ(write_file(kSysfs + "enabled", "1"), 0);
}

TEST_F(KnobTest, CleanFilePagesCanBeLeftOut) {
    const Knob knob("file_pages", 0);
    Actor clean(Kind::kFileClean, pattern_, kPages);
    EXPECT_EQ(clean.advise().skipped(UPM_SKIP_FILE), kPages);
}

// ---- dry run --------------------------------------------------------------------

TEST_F(KnobTest, DryRunPredictsAndChangesNothing) {
    const Pattern mixed{Content::kMixed, fresh_seed()};
    Actor a(Kind::kAnonymous, mixed, kPages);
    Actor b(Kind::kAnonymous, mixed, kPages);
    a.advise();
    const Frames before = b.frames();
    const std::uint64_t merged = statistic("pages_merged");
    const Advice predicted = b.advise({.flags = UPM_ADVISE_DRY_RUN});
    EXPECT_EQ(b.frames(), before);
    EXPECT_EQ(statistic("pages_merged"), merged);
    const Advice done = b.advise();
    EXPECT_EQ(predicted.counts.merged, done.counts.merged);
    EXPECT_EQ(predicted.counts.inserted, done.counts.inserted);
    EXPECT_EQ(predicted.counts.zero, done.counts.zero);
    EXPECT_EQ(b.advise({.flags = UPM_ADVISE_DRY_RUN}).counts.already, done.counts.merged);
}

// ---- NUMA -----------------------------------------------------------------------

// With merge_across_nodes off, a process maps shared pages of its own node only.
TEST_F(KnobTest, NodesApart) {
    if (!exists("/sys/devices/system/node/node1"))
        GTEST_SKIP() << "one NUMA node (run with --numa 2)";
    const auto on = [](int cpu) {
        return [cpu] {
            cpu_set_t set;
            CPU_ZERO(&set);
            CPU_SET(cpu, &set);
            must(::sched_setaffinity(0, sizeof(set), &set), "sched_setaffinity");
        };
    };
    for (const int across : {1, 0}) {
        const Knob knob("merge_across_nodes", static_cast<std::uint64_t>(across));
        const Pattern pattern{Content::kDistinct, fresh_seed()};
        // The CPUs of the guest are dealt out over the nodes: 0 and 1 are apart.
        Actor a(Kind::kAnonymous, pattern, kPages, on(0));
        Actor b(Kind::kAnonymous, pattern, kPages, on(1));
        Actor c(Kind::kAnonymous, pattern, kPages, on(1));
        EXPECT_EQ(a.advise().counts.inserted, kPages);
        const Advice other = b.advise();
        EXPECT_EQ(across != 0 ? other.counts.merged : other.counts.inserted, kPages);
        EXPECT_EQ(c.advise().counts.merged, kPages);
        EXPECT_EQ(equal_frames(b.frames(), c.frames()), kPages);
        EXPECT_EQ(equal_frames(a.frames(), b.frames()), across != 0 ? kPages : 0U);
    }
}

} // namespace

} // namespace upm::test
