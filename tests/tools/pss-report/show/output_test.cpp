// SPDX-License-Identifier: MIT
//
// Every output against a file. UPM_UPDATE_GOLDEN=1 writes the files anew; look at the
// difference before you commit it.
#include "tools/pss-report/show/output.hpp"

#include "tests/support/support.hpp"
#include "tests/tools/pss-report/root.hpp"
#include "tools/common/files.hpp"

#include <cstdlib>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <string>
#include <vector>

namespace upm::tool::pss {

namespace {

void expect_golden(const std::string &name, const std::string &text) {
    const std::string path = std::string(UPM_GOLDEN) + "/" + name;
    if (std::getenv("UPM_UPDATE_GOLDEN") != nullptr)
        write_atomically(path, text);
    EXPECT_EQ(text, upm::test::read_file(path)) << path;
}

Report sorted(const Snapshot &snapshot, GroupBy by, const char *field = "pss") {
    Report report = make_report(snapshot, by);
    sort_rows(report.rows, field, false);
    return report;
}

std::string table(const Snapshot &snapshot, GroupBy by, const Style &style) {
    return to_table(sorted(snapshot, by), snapshot, default_fields(by), style);
}

TEST(Golden, Table) {
    const Snapshot snapshot = test::fixed_snapshot(false);
    expect_golden("process.txt", table(snapshot, GroupBy::kProcess, {}));
    expect_golden("container.txt", table(snapshot, GroupBy::kContainer, {}));
    expect_golden("cgroup.txt", table(snapshot, GroupBy::kCgroup, {.unit = Unit::kMib}));
    expect_golden("user.txt", table(snapshot, GroupBy::kUser, {.color = true}));
    expect_golden("narrow.txt", table(snapshot, GroupBy::kCommand,
                                      {.unit = Unit::kKib, .width = 60, .limit = 1}));
}

TEST(Golden, TableByMapping) {
    expect_golden("mappings.txt",
                  table(test::fixed_snapshot(true), GroupBy::kUser, {.unit = Unit::kKib}));
}

TEST(Golden, Json) {
    const Snapshot snapshot = test::fixed_snapshot(true);
    const std::string text =
        dump(to_json(sorted(snapshot, GroupBy::kProcess, "pid"), snapshot)) + "\n";
    const std::string version = "pss-report " UPM_VERSION;
    EXPECT_EQ(Json::parse(text)["tool"], version);
    expect_golden("process.json", std::string(text).replace(text.find(version), version.size(),
                                                            "pss-report VERSION"));
    EXPECT_EQ(Json::parse(text)["rows"].size(), 4U);
}

TEST(Golden, Csv) {
    const Snapshot snapshot = test::fixed_snapshot(true);
    expect_golden("process.csv", to_csv(sorted(snapshot, GroupBy::kProcess), snapshot));
    expect_golden("container.csv", to_csv(sorted(snapshot, GroupBy::kContainer), snapshot, 2));
}

TEST(Golden, Prometheus) {
    const Snapshot snapshot = test::fixed_snapshot(false);
    expect_golden("process.prom", to_prometheus(sorted(snapshot, GroupBy::kProcess), snapshot));
    expect_golden("container.prom", to_prometheus(sorted(snapshot, GroupBy::kContainer), snapshot));
}

TEST(Sort, NumbersFallAndTextsRise) {
    Report report = make_report(test::fixed_snapshot(false), GroupBy::kProcess);
    const auto first = [&](const char *field, bool reverse) {
        sort_rows(report.rows, field, reverse);
        return report.rows.front().pid;
    };
    EXPECT_EQ(first("rss", false), 100);
    EXPECT_EQ(first("rss", true), 7);
    EXPECT_EQ(first("pid", false), 7);
    EXPECT_EQ(first("pid", true), 102);
    EXPECT_EQ(first("user", false), 100);
    EXPECT_EQ(first("command", false), 7);
}

// A row "(none)" or an empty figure would not tell that there is nothing to see.
TEST(Command, SaysThatThereIsNoContainer) {
    const test::FakeRoot root;
    root.add({.pid = 7, .mappings = {{"1000-2000 rw-p 00000000 00:00 0 ", 4, 4, 4, 4}}});
    const std::vector<std::string> base = {UPM_PSS_REPORT, "--root", root.path(), "--by"};
    for (const char *by : {"container", "pod"}) {
        std::vector<std::string> words = base;
        words.emplace_back(by);
        const std::string said = fmt::format("no process is in a {}: ", by);
        EXPECT_NE(upm::test::run(words).out.find(said), std::string::npos);
        words.insert(words.end(), {"--plot", root.path() + "/x.svg"});
        const upm::test::Finished done = upm::test::run(words);
        EXPECT_EQ(done.status, 1);
        EXPECT_NE(done.err.find(said), std::string::npos) << done.err;
    }
}

} // namespace

} // namespace upm::tool::pss
