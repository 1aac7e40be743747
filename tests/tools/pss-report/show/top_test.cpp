// SPDX-License-Identifier: MIT
//
// The live view: what keys do to the lines, and the command in a real terminal, which
// tmux plays.
#include "tools/pss-report/show/top.hpp"

#include "tests/support/support.hpp"
#include "tests/tools/pss-report/root.hpp"

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <thread>

namespace upm::tool::pss {

namespace {

using testing::AllOf;
using testing::ContainsRegex;
using testing::HasSubstr;
using testing::Not;

// Lines of the screen, one below the other.
std::string shown(Top &top, const Snapshot &snapshot, std::size_t width = 120,
                  std::size_t height = 24) {
    std::string text;
    for (const TopLine &line : top.screen(snapshot, width, height))
        text += line.text + "\n";
    return text;
}

void type(Top &top, std::string_view keys) {
    for (const char key : keys)
        EXPECT_TRUE(top.key(static_cast<char32_t>(key)));
}

TEST(Top, ShowsRowsSumAndKeys) {
    Top top({});
    const std::string text = shown(top, test::fixed_snapshot(false));
    EXPECT_THAT(text, AllOf(HasSubstr("4 processes in 4 rows by process"), HasSubstr("PSS↓"),
                            HasSubstr("ba\\x0ash"), HasSubstr("total 4"),
                            HasSubstr("q quit   <  > sort"), HasSubstr("1 unreadable")));
}

TEST(Top, LongNamesLeaveRoomForTheirKinds) {
    Snapshot snapshot = test::fixed_snapshot(true);
    snapshot.processes.resize(1);
    snapshot.processes[0].container.id = std::string(64, 'c');
    Top top({.by = GroupBy::kContainer});
    type(top, "m");
    const std::string text = shown(top, snapshot, 100);
    EXPECT_THAT(text, AllOf(HasSubstr("1 process in 1 row by container"), HasSubstr("KIND"),
                            HasSubstr("anon ("), HasSubstr("cccc…")));
}

TEST(Top, FitsTheTerminal) {
    const Snapshot snapshot = test::fixed_snapshot(true);
    for (const std::size_t height : {0U, 1U, 2U, 5U, 6U, 7U, 50U})
        for (const std::size_t width : {0U, 1U, 20U, 80U, 300U}) {
            Top top({.by = GroupBy::kContainer});
            const auto lines = top.screen(snapshot, width, height);
            EXPECT_EQ(lines.size(), height);
            for (const TopLine &line : lines)
                EXPECT_LE(display_width(line.text), width);
        }
}

TEST(Top, SortsByColumnsAndReverses) {
    Top top({});
    const Snapshot snapshot = test::fixed_snapshot(false);
    (void)shown(top, snapshot);
    type(top, ">");
    EXPECT_THAT(shown(top, snapshot), HasSubstr("USS↓"));
    type(top, "<<");
    EXPECT_THAT(shown(top, snapshot), HasSubstr("RSS↓"));
    type(top, "r");
    EXPECT_THAT(shown(top, snapshot), HasSubstr("RSS↑"));
    Top pids({.sort = "pid"});
    const std::string text = shown(pids, snapshot);
    EXPECT_LT(text.find("ba\\x0ash"), text.find("python3"));
    type(pids, "r");
    EXPECT_GT(shown(pids, snapshot).find("ba\\x0ash"), shown(pids, snapshot).find("python3"));
}

TEST(Top, GroupsInTurn) {
    Top top({});
    const Snapshot snapshot = test::fixed_snapshot(false);
    for (const char *name : {"cgroup", "container", "user", "command", "pod", "process"}) {
        type(top, "g");
        EXPECT_THAT(shown(top, snapshot), ContainsRegex(fmt::format(" rows? by {} ", name)));
    }
    type(top, "G");
    EXPECT_THAT(shown(top, snapshot), HasSubstr("1 row by pod"));
}

TEST(Top, FiltersAndSaysSo) {
    Top top({});
    const Snapshot snapshot = test::fixed_snapshot(false);
    type(top, "/PYTHONq");
    EXPECT_THAT(shown(top, snapshot), HasSubstr("filter: PYTHONq_"));
    EXPECT_TRUE(top.key(kKeyBackspace));
    EXPECT_TRUE(top.key(kKeyEnter));
    EXPECT_THAT(shown(top, snapshot),
                AllOf(HasSubstr("filter: PYTHON\n"), HasSubstr("3 processes in 3 rows"),
                      Not(HasSubstr("ba\\x0ash"))));
    EXPECT_TRUE(top.key(kKeyEscape));
    EXPECT_THAT(shown(top, snapshot), HasSubstr("4 processes"));
    type(top, "/");
    EXPECT_TRUE(top.key(U'ü'));
    EXPECT_TRUE(top.key(U'x'));
    EXPECT_TRUE(top.key(kKeyBackspace));
    EXPECT_THAT(shown(top, snapshot), HasSubstr("filter: ü_"));
    EXPECT_TRUE(top.key(kKeyBackspace));
    EXPECT_TRUE(top.key(kKeyBackspace));
    EXPECT_THAT(shown(top, snapshot), HasSubstr("filter: _"));
}

TEST(Top, ScrollsToTheSumAndNoFurther) {
    Snapshot snapshot = test::fixed_snapshot(false);
    const Process first = snapshot.processes[0];
    for (int i = 0; i < 100; ++i) {
        snapshot.processes.push_back(first);
        snapshot.processes.back().pid = 1000 + i;
    }
    Top top({.sort = "pid"});
    EXPECT_THAT(shown(top, snapshot, 120, 10), Not(HasSubstr("total")));
    EXPECT_TRUE(top.key(kKeyEnd));
    const std::string end = shown(top, snapshot, 120, 10);
    EXPECT_THAT(end, HasSubstr("total 104"));
    EXPECT_TRUE(top.key(kKeyPageDown));
    EXPECT_EQ(shown(top, snapshot, 120, 10), end);
    EXPECT_TRUE(top.key(kKeyPageUp));
    EXPECT_THAT(shown(top, snapshot, 120, 10), Not(HasSubstr("total")));
    EXPECT_TRUE(top.key(kKeyHome));
    EXPECT_TRUE(top.key(kKeyDown));
    EXPECT_TRUE(top.key(kKeyUp));
    EXPECT_TRUE(top.key(kKeyUp));
    EXPECT_THAT(shown(top, snapshot, 120, 10), HasSubstr("ba\\x0ash"));
}

TEST(Top, PausePaceUnitsMappingsHelp) {
    Top top({.seconds = 1});
    const Snapshot snapshot = test::fixed_snapshot(true);
    type(top, " +");
    EXPECT_TRUE(top.paused());
    EXPECT_THAT(shown(top, snapshot), HasSubstr("every 0.5 s (paused)"));
    type(top, " +++++");
    EXPECT_EQ(top.seconds(), 0.25);
    for (int i = 0; i < 20; ++i)
        type(top, "-");
    EXPECT_EQ(top.seconds(), 60);
    type(top, "m");
    EXPECT_TRUE(top.mappings());
    EXPECT_THAT(shown(top, snapshot), HasSubstr("weights (1)"));
    type(top, "uu");
    EXPECT_THAT(shown(top, snapshot), HasSubstr("271532")); // KiB
    type(top, "?");
    EXPECT_THAT(shown(top, snapshot), HasSubstr("only what has a text in its name"));
    type(top, "h");
    EXPECT_THAT(shown(top, snapshot), HasSubstr("weights (1)")); // the rows again
    EXPECT_FALSE(top.key('q'));
}

TEST(Top, WithoutAnyProcess) {
    Top top({});
    EXPECT_THAT(shown(top, Snapshot()), HasSubstr("0 processes in 0 rows"));
}

// A terminal of 130 columns and 20 lines in which the command runs.
class Tmux {
  public:
    explicit Tmux(const std::string &arguments) {
        (void)run({"new-session", "-d", "-x", "130", "-y", "20",
                   fmt::format("trap : INT; {} {}; echo left with $?; sleep 60", UPM_PSS_REPORT,
                               arguments)});
    }
    Tmux(const Tmux &) = delete;
    Tmux &operator=(const Tmux &) = delete;
    ~Tmux() { (void)run({"kill-server"}); }

    void keys(std::vector<std::string> keys) const {
        keys.insert(keys.begin(), "send-keys");
        (void)run(keys);
    }
    // The screen, once it has that text (or does not get it).
    [[nodiscard]] std::string wait_for(const std::string &text) const {
        std::string screen;
        for (int i = 0; i < 200; ++i) {
            screen = run({"capture-pane", "-p"});
            if (screen.find(text) != std::string::npos)
                break;
            std::this_thread::sleep_for(std::chrono::milliseconds(50));
        }
        return screen;
    }

  private:
    [[nodiscard]] std::string run(std::vector<std::string> words) const {
        std::vector<std::string> all = {"/usr/bin/env",          "tmux", "-S",
                                        dir_.path() + "/socket", "-f",   "/dev/null"};
        all.insert(all.end(), words.begin(), words.end());
        return upm::test::run(all, {"TMUX", "LC_ALL=C.UTF-8"}).out;
    }
    upm::test::TempDir dir_;
};

class LiveView : public testing::Test {
  protected:
    void SetUp() override {
        if (std::system("command -v tmux >/dev/null") != 0)
            GTEST_SKIP() << "tmux is not installed";
        test::populate(root_);
    }
    test::FakeRoot root_;
    std::string arguments_ = "--top --watch 0.3 --root " + root_.path();
};

TEST_F(LiveView, InATerminal) {
    const Tmux tmux(arguments_);
    EXPECT_THAT(tmux.wait_for("total 4"),
                AllOf(HasSubstr("PSS↓"), HasSubstr("ba\\x0ash \\"), HasSubstr("q quit")));
    tmux.keys({"g", "g"});
    EXPECT_THAT(tmux.wait_for("by container"), HasSubstr("aaaaaaaa"));
    tmux.keys({"/", "d", "o", "c", "k", "Enter"});
    EXPECT_THAT(tmux.wait_for("filter: dock\n"), HasSubstr("3 processes in 3 rows"));
    tmux.keys({"Escape"});
    EXPECT_THAT(tmux.wait_for("4 processes"), HasSubstr("4 processes"));
    tmux.keys({"Right", "r"});
    EXPECT_THAT(tmux.wait_for("↑"), HasSubstr("↑"));
    tmux.keys({"G", "G", "m"}); // container ids leave no room for the kinds
    EXPECT_THAT(tmux.wait_for("weights ("), HasSubstr("weights ("));
    // What changes shows without a key.
    root_.add({.pid = 4711, .name = "late", .mappings = {{"1000-2000 rw-p 0 0:0 0", 9, 9, 9, 9}}});
    EXPECT_THAT(tmux.wait_for("5 processes"), HasSubstr("5 processes"));
    tmux.keys({"q"});
    EXPECT_THAT(tmux.wait_for("left with"), HasSubstr("left with 0"));
}

TEST_F(LiveView, LeavesOnInterrupt) {
    const Tmux tmux(arguments_);
    EXPECT_THAT(tmux.wait_for("total 4"), HasSubstr("total 4"));
    tmux.keys({"C-c"});
    EXPECT_THAT(tmux.wait_for("left with"), HasSubstr("left with 0"));
}

TEST_F(LiveView, SaysWhyItEnded) {
    const Tmux tmux("--top --root " + root_.path() + "/none");
    EXPECT_THAT(tmux.wait_for("left with"),
                AllOf(HasSubstr("No such file"), HasSubstr("left with 1")));
}

TEST(LiveViewElsewhere, NeedsATerminal) {
    const upm::test::Finished done = upm::test::run({UPM_PSS_REPORT, "--top"});
    EXPECT_EQ(done.status, 1);
    EXPECT_THAT(done.err, HasSubstr("needs a terminal"));
    EXPECT_EQ(upm::test::run({UPM_PSS_REPORT, "--top", "--json"}).status, 2);
}

} // namespace

} // namespace upm::tool::pss
