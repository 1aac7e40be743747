// SPDX-License-Identifier: MIT
//
// What --draw makes of descriptions, good and bad.
#include "tools/pss-report/show/document.hpp"

#include "tests/support/support.hpp"

#include <cstdlib>
#include <fstream>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace upm::tool::pss {

namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using upm::test::Finished;

constexpr const char *kFigure = R"({"kind": "lines", "title": "Advise", "x": "MiB", "y": "by the
clock", "measure": "ms", "curves": [{"title": "first", "points": [[20, 5.5], [40, 11]]},
{"title": "later", "color": 3, "dash": 2, "points": []}]})";

std::string page_of(const std::string &parts) {
    return page_from_json(Json::parse(R"({"title": "T", "parts": [)" + parts + "]}"));
}

TEST(Document, FigureOfOtherThingsThanMemory) {
    const Figure figure = figure_from_json(Json::parse(R"({"kind": "bars", "measure": "ms",
        "changes": true, "categories": ["a"], "curves": [{"title": "one", "points": [[0, 2]]},
        {"title": "two", "points": [[0, 3e9]]}]})"));
    EXPECT_EQ(figure.curves[1].color, 1U);
    // No unit of bytes is made of 3e9 ms.
    EXPECT_THAT(gnuplot_script(figure, Ground::kWhite),
                AllOf(HasSubstr("\"ms\""), HasSubstr(" 2 \"2.00\"\n"), HasSubstr(" 3000000000 ")));
}

TEST(Document, LinesKeepTheirColourAndDash) {
    std::string text = kFigure;
    text.replace(text.find('\n'), 1, " ");
    const Figure figure = figure_from_json(Json::parse(text));
    EXPECT_EQ(figure.kind, FigureKind::kLines);
    EXPECT_EQ(figure.curves[1].color, 3U);
    EXPECT_EQ(figure.curves[1].dash, 2U);
    EXPECT_THAT(gnuplot_script(figure, Ground::kPage), HasSubstr("\"ms by the clock\""));
}

TEST(Document, PageOfParts) {
    const std::string text = page_of(R"({"heading": "H & I"}, {"paragraph": "<b>"},
        {"links": [["raw", "results/a.json"]]}, {"numbers": [["7 ms", "it took"]]},
        {"table": {"columns": ["what", "n"], "rows": [["x", "1"]]}})");
    EXPECT_THAT(text,
                AllOf(HasSubstr("<h2>H &amp; I</h2>"), HasSubstr("<p>&lt;b&gt;</p>"),
                      HasSubstr("<a href=\"results/a.json\">raw</a>"), HasSubstr("<b>7 ms</b>"),
                      HasSubstr("<td class=\"left\">x</td><td>1</td>"), Not(HasSubstr("<b>\n"))));
}

TEST(Document, RefusesOtherForms) {
    EXPECT_THROW((void)figure_from_json(Json::parse(R"({"kind": "pie", "curves": []})")),
                 std::runtime_error);
    EXPECT_THROW((void)figure_from_json(Json::parse(R"({"kind": "bars"})")), std::runtime_error);
    EXPECT_THROW(
        (void)figure_from_json(Json::parse(R"({"kind": "lines", "curves": [{"points": [[1]]}]})")),
        std::runtime_error);
    EXPECT_THROW((void)page_of(R"({"video": "x"})"), std::runtime_error);
    EXPECT_THROW((void)page_of(R"({"links": [["x", "javascript:alert"]]
})"),
                 std::runtime_error);
    EXPECT_THROW((void)page_of(R"({"table": {"columns": ["a"], "rows": [["1", "2"]]}})"),
                 std::runtime_error);
    EXPECT_THROW((void)page_from_json(Json::parse("[]")), std::runtime_error);
}

// Neighbours stand side by side; what is between them parts them.
TEST(Document, FiguresFillTheWidth) {
    if (std::system("command -v gnuplot >/dev/null") != 0)
        GTEST_SKIP() << "gnuplot is not installed";
    std::string figure = kFigure;
    figure.replace(figure.find('\n'), 1, " ");
    figure = R"({"figure": )" + figure + "}";
    const std::string text = page_of(figure + "," + figure + R"(, {"heading": "x"},)" + figure);
    std::size_t groups = 0, figures = 0;
    for (std::size_t at = 0; (at = text.find("<div class=\"figures\">", at)) != std::string::npos;
         ++at)
        ++groups;
    for (std::size_t at = 0; (at = text.find("<figure", at)) != std::string::npos; ++at)
        ++figures;
    EXPECT_EQ(groups, 2U);
    EXPECT_EQ(figures, 3U);
    EXPECT_THAT(text, Not(HasSubstr("body { max-width")));
}

class Drawn : public testing::Test {
  protected:
    Finished draw(const std::string &text, std::vector<std::string> more) {
        std::ofstream(path_) << text;
        std::vector<std::string> command = {UPM_PSS_REPORT, "--draw", path_};
        command.insert(command.end(), more.begin(), more.end());
        return upm::test::run(command);
    }
    upm::test::TempDir dir_;
    std::string path_ = dir_.path() + "/d.json", svg_ = dir_.path() + "/x.svg",
                html_ = dir_.path() + "/x.html";
};

TEST_F(Drawn, ByTheCommand) {
    const Finished page =
        draw(R"({"title": "T", "parts": [{"paragraph": "p"}]})", {"--html", html_});
    ASSERT_EQ(page.status, 0) << page.err;
    EXPECT_THAT(upm::test::read_file(html_), HasSubstr("<p>p</p>"));
    if (std::system("command -v gnuplot >/dev/null") != 0)
        GTEST_SKIP() << "gnuplot is not installed";
    std::string figure = kFigure;
    figure.replace(figure.find('\n'), 1, " ");
    const Finished done = draw(figure, {"--plot", svg_});
    ASSERT_EQ(done.status, 0) << done.err;
    EXPECT_THAT(upm::test::read_file(svg_),
                AllOf(HasSubstr("ms by the clock"), HasSubstr("later")));
}

TEST_F(Drawn, SaysWhatIsWrong) {
    EXPECT_THAT(draw("{", {"--html", html_}).err, HasSubstr("d.json: "));
    EXPECT_THAT(draw("{}", {"--html", html_}).err, HasSubstr("no description of a page"));
    EXPECT_THAT(draw("{}", {}).err, HasSubstr("--draw takes --plot"));
    EXPECT_THAT(draw("{}", {"--html", html_, "--estimate"}).err, HasSubstr("nothing else"));
}

} // namespace

} // namespace upm::tool::pss
