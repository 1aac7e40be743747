// SPDX-License-Identifier: MIT
//
// Recordings side by side, and the command that draws them.
#include "tools/pss-report/show/series_output.hpp"

#include "tests/support/support.hpp"
#include "tests/tools/pss-report/root.hpp"
#include "tools/pss-report/read/recording.hpp"
#include "tools/pss-report/show/record.hpp"

#include <cstdlib>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace upm::tool::pss {

namespace {

using testing::AllOf;
using testing::HasSubstr;
using upm::test::Finished;

constexpr std::uint64_t kMib = 1 << 20;

// `containers` that have `pss` each, and one process in none.
Snapshot snapshot(const char *tag, std::int64_t n, double time, std::uint64_t pss,
                  int containers = 2) {
    Snapshot snapshot;
    snapshot.tag = tag;
    snapshot.n = n;
    snapshot.unix_time = time;
    for (int i = 0; i <= containers; ++i) {
        Process process;
        process.pid = 10 + i;
        process.command = "python3";
        process.usage.rss = 100 * kMib;
        process.usage.pss = process.usage.uss = pss;
        if (i != containers)
            process.container = {"runc", std::to_string(i)};
        snapshot.processes.push_back(process);
    }
    return snapshot;
}

std::vector<Series> series_of(const std::vector<Snapshot> &snapshots, GroupBy by) {
    std::vector<Series> series;
    for (const Snapshot &one : snapshots)
        add_snapshot(series, "file", one, by);
    return series;
}

TEST(Series, MeansPerContainerLeaveTheRestOut) {
    const auto series = series_of({snapshot("", -1, 1, 50 * kMib)}, GroupBy::kContainer);
    ASSERT_EQ(series.size(), 1U);
    EXPECT_EQ(series[0].label, "file");
    EXPECT_EQ(series[0].samples[0].copies, 2);
    EXPECT_EQ(series[0].samples[0].usage.pss, 100 * kMib);
    const Figure figure = figure_of(series, {.by = GroupBy::kContainer});
    ASSERT_EQ(figure.kind, FigureKind::kBars);
    EXPECT_THAT(figure.categories, testing::ElementsAre("RSS", "PSS"));
    EXPECT_EQ(figure.curves[0].points[1].second, 50 * kMib);
    EXPECT_EQ(figure.y_title, "per container");
}

TEST(Series, BarsOfLabels) {
    const auto series =
        series_of({snapshot("without UPM", 3, 1, 60 * kMib), snapshot("with UPM", 3, 2, 30 * kMib)},
                  GroupBy::kProcess);
    const SeriesOptions options{.by = GroupBy::kProcess, .fields = {"pss", "uss"}};
    const Figure figure = figure_of(series, options);
    EXPECT_TRUE(figure.changes);
    ASSERT_EQ(figure.curves.size(), 2U);
    EXPECT_EQ(figure.curves[1].title, "with UPM");
    EXPECT_EQ(figure.curves[1].points[0].second, 30 * kMib);
    EXPECT_EQ(figure.y_title, "per copy");
    const std::string table = series_table(series, options).text({});
    EXPECT_THAT(table, AllOf(HasSubstr("-50.0%"), HasSubstr("with UPM")));
}

TEST(Series, OverN) {
    const auto series =
        series_of({snapshot("a", 4, 1, 10 * kMib, 4), snapshot("a", 2, 2, 99 * kMib, 2),
                   snapshot("a", 2, 3, 20 * kMib, 2), snapshot("b", 2, 4, 5 * kMib, 2)},
                  GroupBy::kContainer);
    EXPECT_EQ(axis_of(series, Axis::kAuto), Axis::kN);
    Figure figure = figure_of(series, {.by = GroupBy::kContainer});
    // One curve for each label.
    ASSERT_EQ(figure.curves.size(), 2U);
    EXPECT_EQ(figure.curves[0].title, "PSS, a");
    EXPECT_EQ(figure.curves[0].dash, 1U);
    // In order of n, the last snapshot of each.
    using Point = std::pair<double, double>;
    EXPECT_THAT(figure.curves[0].points,
                testing::ElementsAre(Point(2, 20 * kMib), Point(4, 10 * kMib)));
    figure = figure_of(series, {.by = GroupBy::kContainer, .total = true});
    EXPECT_EQ(figure.curves[0].points[1].second, 40 * kMib);
    EXPECT_EQ(figure.x_title, "containers");
    figure = figure_of(series, {.by = GroupBy::kContainer, .fields = {"rss", "pss"}});
    EXPECT_EQ(figure.curves.size(), 4U);
    EXPECT_THAT(series_table(series, {.by = GroupBy::kContainer}).text({}), HasSubstr("-75.0%"));
}

TEST(Series, OverTimeFromTheirOwnBeginnings) {
    const auto series = series_of({snapshot("a", -1, 100, kMib), snapshot("a", -1, 101.5, kMib),
                                   snapshot("b", -1, 500, kMib), snapshot("b", -1, 502, kMib)},
                                  GroupBy::kUser);
    EXPECT_EQ(axis_of(series, Axis::kAuto), Axis::kTime);
    const Figure figure = figure_of(series, {.by = GroupBy::kUser});
    EXPECT_EQ(figure.curves[0].points[1].first, 1.5);
    EXPECT_EQ(figure.curves[2].points[1].first, 2);
    EXPECT_EQ(figure.x_title, "seconds");
    EXPECT_EQ(axis_of(series, Axis::kLabel), Axis::kLabel);
    EXPECT_THROW((void)figure_of(series, {.axis = Axis::kN}), std::runtime_error);
}

TEST(Series, ExtrapolationOfAnEstimate) {
    Estimate estimate;
    EXPECT_THROW((void)figure_of(estimate, {}), std::runtime_error);
    estimate.extrapolation = {{2, 200, 120}, {4, 400, 160}};
    const Figure figure = figure_of(estimate, {});
    EXPECT_EQ(figure.curves[1].points[1].second, 40);
    EXPECT_EQ(figure_of(estimate, {.total = true}).curves[1].points[1].second, 160);
}

Finished command(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), UPM_PSS_REPORT);
    return upm::test::run(arguments);
}

class Recorded : public testing::Test {
  protected:
    Recorded() {
        record(a_, snapshot("without UPM", 2, 1, 60 * kMib));
        record(b_, snapshot("with UPM", 2, 2, 45 * kMib));
    }
    upm::test::TempDir dir_;
    std::string a_ = dir_.path() + "/a.jsonl", b_ = dir_.path() + "/b.jsonl";
    std::string svg_ = dir_.path() + "/x.svg", html_ = dir_.path() + "/x.html";
};

TEST_F(Recorded, TableAndJson) {
    const Finished table = command({a_, b_, "--by", "container"});
    ASSERT_EQ(table.status, 0) << table.err;
    EXPECT_THAT(table.out,
                HasSubstr("2  100M  45.0M  45.0M      0  -25.0%      90.0M  with UPM\n"));
    const Json json = Json::parse(command({a_, b_, "--by", "container", "--json"}).out);
    EXPECT_EQ(json["over"], "label");
    EXPECT_EQ(json["series"][1]["label"], "with UPM");
    EXPECT_EQ(json["series"][1]["samples"][0]["usage"]["pss"], 90 * kMib);
}

// A file for each N, without tags, is one curve and no row of bars.
TEST_F(Recorded, FilesOfOneNEachAreOneCurve) {
    const std::string one = dir_.path() + "/one.jsonl", four = dir_.path() + "/four.jsonl";
    record(one, snapshot("", 1, 1, 60 * kMib, 1));
    record(four, snapshot("", 4, 2, 30 * kMib, 4));
    Json json = Json::parse(command({four, one, "--by", "container", "--json"}).out);
    EXPECT_EQ(json["over"], "n");
    ASSERT_EQ(json["series"].size(), 1U);
    EXPECT_EQ(json["series"][0]["samples"].size(), 2U);
    record(one, snapshot("", 4, 3, 50 * kMib, 4)); // both know N = 4: two labels
    json = Json::parse(command({four, one, "--by", "container", "--json"}).out);
    EXPECT_EQ(json["series"].size(), 2U);
    EXPECT_EQ(json["series"][1]["label"], "one");
}

TEST_F(Recorded, FiltersApply) {
    const Json json = Json::parse(command({a_, "--pid", "11", "--json"}).out);
    EXPECT_EQ(json["series"][0]["samples"][0]["usage"]["pss"], 60 * kMib);
}

TEST_F(Recorded, FigureAndPage) {
    if (std::system("command -v gnuplot >/dev/null") != 0)
        GTEST_SKIP() << "gnuplot is not installed";
    const Finished done = command({a_, b_, "--by", "container", "--plot", svg_, "--html", html_});
    ASSERT_EQ(done.status, 0) << done.err;
    EXPECT_THAT(upm::test::read_file(svg_), AllOf(HasSubstr("<svg"), HasSubstr("45.0 (-25 %)")));
    EXPECT_THAT(upm::test::read_file(html_), AllOf(HasSubstr("<svg"), HasSubstr("<b>45.0 MiB</b>"),
                                                   HasSubstr("From “without UPM” to “with UPM”")));
}

TEST_F(Recorded, DiffTakesTwoFiles) {
    const Finished done = command({"--diff", a_, b_});
    ASSERT_EQ(done.status, 0) << done.err;
    EXPECT_THAT(done.out, HasSubstr("PSS fell by 45.0M"));
    EXPECT_EQ(command({"--diff", a_, "--diff", b_}).out, done.out);
    EXPECT_THAT(command({"--diff", a_}).err, HasSubstr("two recordings"));
    EXPECT_THAT(command({"--diff", a_, b_, b_}).err, HasSubstr("two recordings"));
}

TEST_F(Recorded, RefusesWhatMakesNoSense) {
    EXPECT_THAT(command({a_, "--plot", "x.png"}).err, HasSubstr("does not end in .svg"));
    EXPECT_THAT(command({a_, "--csv"}).err, HasSubstr("a table and --json"));
    EXPECT_THAT(command({a_, "--estimate"}).err, HasSubstr("need processes"));
    EXPECT_THAT(command({"--over", "n"}).err, HasSubstr("--over needs recordings"));
    EXPECT_THAT(command({a_, "--over", "y"}).err, HasSubstr("not one of auto, label, n, time"));
    EXPECT_THAT(command({dir_.path() + "/none"}).err, HasSubstr("none: No such file"));
}

} // namespace

} // namespace upm::tool::pss
