// SPDX-License-Identifier: MIT
#include "tools/upm/show/report.hpp"

#include <cerrno>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace upm::tool::cli {

namespace {

using testing::HasSubstr;
using testing::Not;

Report sample() {
    Report report;
    report.backend = "kmod";
    TargetResult one;
    one.pid = 7;
    one.command = "a\nb\xff";
    one.counts.pages = 100;
    one.counts.merged = 90;
    one.counts.skipped[UPM_SKIPPED_BUSY] = 10;
    one.counts.bytes = 90ULL * 4096;
    one.counts.nanoseconds = 1500000000;
    one.mappings = 3;
    one.left_out[static_cast<std::size_t>(LeftOut::kShared)] = 2;
    TargetResult two = one;
    two.pid = 8;
    two.command = "two";
    two.vanished = 1;
    two.failures.push_back({.what = "it broke", .range = "1000-2000", .error = EPERM});
    report.targets = {one, two};
    return report;
}

TEST(ReportJson, HasTheDocumentedShape) {
    const Json json = Json::parse(dump(report_json(sample())));
    EXPECT_EQ(json["command"], "advise");
    EXPECT_EQ(json["backend"], "kmod");
    EXPECT_EQ(json["dry_run"], false);
    EXPECT_EQ(json["counts"]["pages"], 200);
    EXPECT_EQ(json["counts"]["merged"], 180);
    EXPECT_EQ(json["counts"]["bytes"], 180 * 4096);
    EXPECT_EQ(json["counts"]["seconds"], 3.0);
    EXPECT_EQ(json["counts"]["skipped"], Json({{"busy", 20}}));
    ASSERT_EQ(json["targets"].size(), 2U);
    EXPECT_EQ(json["targets"][0]["pid"], 7);
    EXPECT_EQ(json["targets"][0]["mappings"], 3);
    EXPECT_EQ(json["targets"][0]["left_out"]["shared"], 2);
    EXPECT_EQ(json["targets"][1]["vanished"], 1);
    EXPECT_FALSE(json["targets"][0].contains("details"));
    ASSERT_EQ(json["errors"].size(), 1U);
    EXPECT_EQ(
        json["errors"][0],
        Json({{"pid", 8}, {"range", "1000-2000"}, {"errno", "EPERM"}, {"message", "it broke"}}));
}

TEST(ReportJson, SurvivesNamesThatAreNotUtf8) {
    const Json json = Json::parse(dump(report_json(sample())));
    EXPECT_EQ(json["targets"][0]["command"], "a\nb\xef\xbf\xbd");
}

// A kernel that is newer than the library has reasons without a name here.
TEST(ReportJson, UnknownReasonsAreNotLost) {
    Counts counts;
    counts.skipped[20] = 5;
    EXPECT_EQ(counts_json(counts)["skipped"], Json({{"reason_20", 5}}));
}

TEST(ReportJson, DetailsOnRequest) {
    Report report = sample();
    report.verbose = true;
    MappingResult detail;
    detail.mapping.start = 0x1000;
    detail.mapping.end = 0x2000;
    detail.error = ENOMEM;
    report.targets[0].details.push_back(detail);
    const Json json = report_json(report);
    EXPECT_EQ(json["targets"][0]["details"][0]["range"], "1000-2000");
    EXPECT_EQ(json["targets"][0]["details"][0]["vanished"], true);
}

TEST(ReportText, IsATable) {
    const std::string text = report_text(sample());
    EXPECT_THAT(text, HasSubstr("PID  COMMAND"));
    EXPECT_THAT(text, HasSubstr("a\\x0ab\\xff")) << "a name must not break the table";
    EXPECT_THAT(text, HasSubstr("total"));
    EXPECT_THAT(text, HasSubstr("busy"));
    EXPECT_THAT(text, HasSubstr("mappings left out: 4 shared\n"));
    EXPECT_THAT(text, HasSubstr("mappings that vanished meanwhile: 1\n"));
    EXPECT_THAT(text, Not(HasSubstr("it broke"))) << "failures belong on stderr";
}

TEST(ReportText, UnmergeHasItsOwnColumns) {
    Report report = sample();
    report.command = "unmerge";
    report.targets.pop_back();
    const std::string text = report_text(report);
    EXPECT_THAT(text, HasSubstr("UNMERGED"));
    EXPECT_THAT(text, Not(HasSubstr("INSERTED")));
    EXPECT_THAT(text, Not(HasSubstr("total"))) << "one target needs no sum";
}

TEST(Report, FailsWithAnyTarget) {
    Report report = sample();
    EXPECT_TRUE(report.failed());
    report.targets.pop_back();
    EXPECT_FALSE(report.failed());
}

} // namespace

} // namespace upm::tool::cli
