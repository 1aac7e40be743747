// SPDX-License-Identifier: MIT
//
// Figures and pages: what gnuplot is told, what it makes of it, and that a name stays
// a name in both.
#include "tools/pss-report/show/plot.hpp"

#include "tests/support/support.hpp"
#include "tests/tools/pss-report/root.hpp"
#include "tools/pss-report/show/html.hpp"
#include "tools/pss-report/show/page.hpp"

#include <cstdlib>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

namespace upm::tool::pss {

namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr double kMib = 1 << 20;

bool has_gnuplot() {
    return std::system("command -v gnuplot >/dev/null") == 0;
}
#define SKIP_WITHOUT_GNUPLOT()                                                                     \
    if (!has_gnuplot())                                                                            \
    GTEST_SKIP() << "gnuplot is not installed"

Figure bars() {
    Figure figure;
    figure.title = "Memory per container";
    figure.y_title = "per container";
    figure.categories = {"RSS", "PSS"};
    figure.curves = {{"without UPM", 0, 1, {{0, 431 * kMib}, {1, 300 * kMib}}},
                     {"with UPM", 1, 1, {{0, 431 * kMib}, {1, 225 * kMib}}}};
    figure.changes = true;
    return figure;
}

Figure lines() {
    Figure figure;
    figure.kind = FigureKind::kLines;
    figure.x_title = "containers";
    figure.curves = {{"PSS", 1, 2, {{1, 4096 * kMib}, {2, 2048 * kMib}}}};
    return figure;
}

TEST(Plot, BarsOfTheScript) {
    const std::string script = gnuplot_script(bars(), Ground::kWhite);
    EXPECT_THAT(script, AllOf(HasSubstr("\"MiB per container\""), HasSubstr("\"without UPM\""),
                              HasSubstr(" 300 \"300.0\"\n"), HasSubstr(" 225 \"225.0 (-25 %)\"\n"),
                              HasSubstr(" 431 \"431.0\"\n"), HasSubstr("\n1 \"PSS\"\n"),
                              HasSubstr("set title")));
    EXPECT_THAT(gnuplot_script(bars(), Ground::kPage), Not(HasSubstr("set title")));
}

TEST(Plot, LinesOfTheScript) {
    const std::string script = gnuplot_script(lines(), Ground::kPage);
    EXPECT_THAT(script, AllOf(HasSubstr("\n1 4\n2 2\n"), HasSubstr("\"GiB\""),
                              HasSubstr("dashtype 2"), HasSubstr("linespoints"),
                              HasSubstr("x_title . \"\\n \""))); // room above the key
}

TEST(Plot, UnitOfTheAxis) {
    Figure figure = lines();
    figure.unit = Unit::kKib;
    EXPECT_THAT(gnuplot_script(figure, Ground::kPage),
                AllOf(HasSubstr("\"KiB\""), HasSubstr("2 2097152\n")));
}

TEST(Plot, Svg) {
    SKIP_WITHOUT_GNUPLOT();
    EXPECT_THAT(draw(bars(), Ground::kWhite),
                AllOf(HasSubstr("<svg"), HasSubstr("225.0 (-25 %)"), HasSubstr("with UPM"),
                      HasSubstr("Memory per container"), HasSubstr("</svg>"),
                      Not(HasSubstr("<script"))));
    EXPECT_THAT(draw(lines(), Ground::kPage), HasSubstr("containers"));
}

TEST(Plot, OfNothingButZeros) {
    SKIP_WITHOUT_GNUPLOT();
    for (Figure figure : {bars(), lines()}) {
        for (Curve &curve : figure.curves)
            for (auto &point : curve.points)
                point.second = 0;
        EXPECT_THAT(draw(figure, Ground::kWhite), HasSubstr("</svg>"));
    }
    EXPECT_THROW((void)draw(Figure(), Ground::kWhite), std::runtime_error);
}

// Names that would leave a string, a data block, or gnuplot altogether.
TEST(Plot, NamesAreNoCommands) {
    SKIP_WITHOUT_GNUPLOT();
    const upm::test::TempDir dir;
    const std::string mark = dir.path() + "/mark";
    const std::vector<std::string> names = {"`touch " + mark + "`",
                                            "\"; system \"touch " + mark + "\"; \"",
                                            "x\nEND_OF_BLOCK\nsystem \"touch " + mark + "\"\n",
                                            "\\\"; !touch " + mark + "\n!touch " + mark,
                                            "@x $0 <b>&amp;</b> \xff {/:Bold x} ' \\",
                                            "#no comment",
                                            ""};
    for (const std::string &name : names) {
        Figure figure = bars();
        figure.title = figure.x_title = figure.y_title = figure.categories[0] =
            figure.curves[1].title = name;
        const std::string svg = draw(figure, Ground::kWhite);
        EXPECT_NE(::access(mark.c_str(), F_OK), 0) << name;
        EXPECT_THAT(svg,
                    AllOf(HasSubstr("</svg>"), Not(HasSubstr("<b>")), HasSubstr("without UPM")));
    }
}

TEST(Plot, SaysThatGnuplotIsMissing) {
    const std::string path = std::getenv("PATH");
    ::setenv("PATH", "/nonexistent", 1);
    std::string message;
    try {
        (void)draw(bars(), Ground::kWhite);
    } catch (const std::exception &error) {
        message = error.what();
    }
    ::setenv("PATH", path.c_str(), 1);
    EXPECT_THAT(message, HasSubstr("not installed (Debian: apt-get install gnuplot-nox)"));
}

TEST(Page, EscapesWhatItIsGiven) {
    Page page("<t>");
    page.paragraph("a & <script>b</script>");
    page.facts({{"x", "\"<\""}});
    Table table({{"N"}, {"NAME", Table::Align::kLeft}});
    table.add({"1", "<i>&"}, "1");
    page.table(table);
    const std::string text = page.text();
    EXPECT_THAT(text, AllOf(HasSubstr("a &amp; &lt;script&gt;b"), HasSubstr("&quot;&lt;&quot;"),
                            HasSubstr("<h1>&lt;t&gt;</h1>"), Not(HasSubstr("<script")),
                            HasSubstr("<tr class=\"total\"><td>1</td>"
                                      "<td class=\"left\">&lt;i&gt;&amp;</td></tr>")));
}

TEST(Html, NeedsNothingButItself) {
    SKIP_WITHOUT_GNUPLOT();
    const Snapshot snapshot = test::fixed_snapshot(true);
    Report report = make_report(snapshot, GroupBy::kProcess);
    sort_rows(report.rows, "pss", false);
    const std::string text = html_report(report, snapshot, nullptr, {}, 0);
    EXPECT_THAT(text, AllOf(HasSubstr("<!DOCTYPE html>"), HasSubstr("<svg"),
                            HasSubstr("ba\\x0ash \\ \\xff,&quot;x&quot;"),
                            HasSubstr("se\\x0acret: Permission denied"), HasSubstr("weights"),
                            HasSubstr("1 zombie"), HasSubstr("prefers-color-scheme: dark")));
    EXPECT_THAT(text, AllOf(Not(HasSubstr("<?xml")), Not(HasSubstr("<script")),
                            Not(HasSubstr("src=")), Not(HasSubstr("<link")),
                            Not(HasSubstr("@import")), Not(HasSubstr("url(http"))));
}

// Twelve bars with "1234 (-25 %)" above them: side by side these would be one line.
TEST(Plot, LabelsDoNotTouchTheirNeighbours) {
    Figure figure;
    figure.categories = {"RSS", "PSS"};
    figure.changes = true;
    for (std::size_t i = 0; i < 2; ++i)
        figure.curves.push_back({"c", i, 1, {{0, 1e9 - 2e8 * static_cast<double>(i)}, {1, 2e9}}});
    EXPECT_EQ(gnuplot_script(figure, Ground::kPage).find("rotate by 90"), std::string::npos);
    figure.categories = {"a", "b", "c", "d", "e", "f"};
    for (Curve &curve : figure.curves)
        for (double x = 2; x < 6; ++x)
            curve.points.emplace_back(
                x, 1e9 - 1e8 * static_cast<double>(&curve - figure.curves.data()));
    EXPECT_NE(gnuplot_script(figure, Ground::kPage).find("rotate by 90"), std::string::npos);
}

} // namespace

} // namespace upm::tool::pss
