// SPDX-License-Identifier: MIT
#include "tools/pss-report/read/recording.hpp"

#include "tests/tools/pss-report/root.hpp"
#include "tools/common/errors.hpp"
#include "tools/pss-report/show/diff.hpp"
#include "tools/pss-report/show/record.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace upm::tool::pss {

namespace {

std::string json_of(const Snapshot &snapshot) {
    return dump(to_json(make_report(snapshot, GroupBy::kProcess), snapshot));
}

TEST(Recording, ComesBackAsItWas) {
    const upm::test::TempDir dir;
    const std::string path = dir.path() + "/r.jsonl";
    Snapshot snapshot = test::fixed_snapshot(true);
    snapshot.tag = "before";
    snapshot.n = 3;
    snapshot.system.ksm = {{"pages_shared", -1}};
    record(path, snapshot);
    record(path, snapshot);
    const std::vector<Snapshot> back = read_recording(path);
    ASSERT_EQ(back.size(), 2U);
    EXPECT_EQ(back[1].n, 3);
    EXPECT_EQ(json_of(back[1]), json_of(snapshot));
}

TEST(Recording, ReadsWhatJsonPrints) {
    const std::string text = json_of(test::fixed_snapshot(false));
    EXPECT_EQ(parse_recording(text, "x").size(), 1U);
}

void expect_refused(const std::string &text, const std::string &reason) {
    try {
        (void)parse_recording(text, "file");
        FAIL() << text;
    } catch (const Failure &failure) {
        EXPECT_THAT(failure.what(), testing::HasSubstr(reason)) << text;
    }
}

TEST(Recording, SaysWhatIsWrong) {
    expect_refused("", "file: holds no snapshot");
    expect_refused("x\n", "file:1: no recording");
    expect_refused("{}\n", "no recording");
    expect_refused(R"({"schema": 2})", "schema");
    expect_refused(R"({"schema": 1, "by": "user"})", "grouped");
    expect_refused(R"({"schema": 1, "by": "process"})", "rows");
    expect_refused(R"({"schema": 1, "by": "process", "rows": [{"pid": "x"}]})", "no recording");
    expect_refused(R"({"schema": 1, "by": "process", "page_size": 0, "rows": []})", "page_size");
    expect_refused("[1]\n", "no recording");
}

TEST(Diff, PartsOfTheGainAddUp) {
    Snapshot before = test::fixed_snapshot(false);
    Snapshot after = before;
    after.system.upm["pages_zero"] = 10; // dropped: 40 KiB
    Usage &usage = after.processes[0].usage;
    usage.rss -= 100 << 10; // of it 60 KiB are trimmed
    usage.pss -= 400 << 10;
    usage.saved += 250 << 10;
    const Gains parts = gains(before, after);
    EXPECT_EQ(parts.pss, 400 << 10);
    EXPECT_EQ(parts.zero, 40 << 10);
    EXPECT_EQ(parts.trim, 60 << 10);
    EXPECT_EQ(parts.merge, 250 << 10);
    EXPECT_EQ(parts.rest, 50 << 10);
    after.processes[0].command = "new";
    const Json json = diff_json(before, after, GroupBy::kCommand);
    EXPECT_EQ(json["rows"].size(), 3U);
    EXPECT_EQ(json["total"]["pss"]["change"], -(400 << 10));
    EXPECT_THAT(diff_table(before, after, GroupBy::kCommand, {}),
                testing::HasSubstr("PSS fell by 400K: merged 250K, zero pages 40.0K, "
                                   "trimmed 60.0K, other sharing 50.0K"));
}

} // namespace

} // namespace upm::tool::pss
