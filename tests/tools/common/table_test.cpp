// SPDX-License-Identifier: MIT
#include "tools/common/table.hpp"

#include <gtest/gtest.h>

namespace upm::tool {

namespace {

TEST(Table, Aligns) {
    Table table({{"NAME", Table::Align::kLeft}, {"N"}, {"LAST", Table::Align::kLeft}});
    table.add({"a", "1", ""});
    table.add({"long name", "12345", "x"});
    EXPECT_EQ(table.text(), "NAME           N  LAST\n"
                            "a              1\n"
                            "long name  12345  x\n");
}

TEST(Table, CountsCharactersNotBytes) {
    Table table({{"N", Table::Align::kLeft}, {"X"}});
    table.add({"äöü", "1"});
    table.add({"abc", "2"});
    EXPECT_EQ(table.text(), "N    X\näöü  1\nabc  2\n");
}

TEST(Table, LongTextsGiveWayInANarrowTerminal) {
    Table table({{"NAME", Table::Align::kLeft}, {"N"}});
    table.add({std::string(30, 'x'), "12345"});
    EXPECT_EQ(table.text(20), "NAME               N\nxxxxxxxxxxxx…  12345\n");
    EXPECT_EQ(table.text(10), "NAME     …\nxxxxxxxxx…\n");
}

TEST(Table, TintsWholeLines) {
    Table table({{"N"}});
    table.add({"1"}, "32");
    EXPECT_EQ(table.text(0, true), "\x1b[1mN\x1b[0m\n\x1b[32m1\x1b[0m\n");
    EXPECT_EQ(table.text(), "N\n1\n");
}

} // namespace

} // namespace upm::tool
