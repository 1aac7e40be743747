// SPDX-License-Identifier: MIT
//
// What upmd.service is started with, and whether upmd takes it.
#include "tools/upm/read/broker_options.hpp"

#include "tests/support/support.hpp"

#include <cstdlib>
#include <gmock/gmock.h>

namespace upm::tool::cli {

namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Optional;

TEST(BrokerOptions, AreSplitAsByTheService) {
    EXPECT_THAT(broker_options(""), Optional(IsEmpty()));
    EXPECT_THAT(broker_options("UPMD_OPTIONS=\"\"\n"), Optional(IsEmpty()));
    EXPECT_THAT(broker_options("# UPMD_OPTIONS=\"--max 1\"\n"), Optional(IsEmpty()));
    EXPECT_THAT(broker_options("UPMD_OPTIONS=\"--max 1  --quota\t2\" \nX=y"),
                Optional(ElementsAre("--max", "1", "--quota", "2")));
    EXPECT_THAT(broker_options(" UPMD_OPTIONS=--max=1"), Optional(ElementsAre("--max=1")));
    EXPECT_THAT(broker_options("UPMD_OPTIONS='a'\nUPMD_OPTIONS='b c'"),
                Optional(ElementsAre("b", "c")));
    EXPECT_THAT(broker_options("UPMD_OPTIONS=\"--max 1\n --quota 2\nX=y"),
                Optional(ElementsAre("--max", "1", "--quota", "2", "X=y")))
        << "nothing closes the quote";
    for (const char *text : {"UPMD_OPTIONS=\"a 'b c'\"", "UPMD_OPTIONS=a\\", "UPMD_OPTIONS=\"$X\"",
                             "UPMD_OPTIONS=\"a\" b", "UPMD_OPTIONS=`a`"})
        EXPECT_EQ(broker_options(text), std::nullopt) << text;
}

// Whatever the file looks like, the command is typed into a shell, and the file is read again.
TEST(BrokerOptions, AreSetByACommand) {
    const test::TempDir dir;
    const std::string file = dir.path() + "/upmd";
    for (const char *text :
         {"", "# nothing\n", "UPMD_OPTIONS=\"--mode 0600\"\n", "UPMD_OPTIONS=--mode=0600",
          "X=y\n UPMD_OPTIONS='--max=1'\nUPMD_OPTIONS=\"--max 1\n",
          "UPMD_OPTIONS=\"--max 1\" \n\n"}) {
        dir.write("upmd", text);
        const auto before = broker_options(text);
        ASSERT_TRUE(before);
        const auto options = with_option(with_option(*before, "max", "64"), "quota", "8");
        const std::string command = command_to_set_options(file, text, options);
        ASSERT_EQ(std::system(command.c_str()), 0) << command;
        EXPECT_EQ(broker_options(test::read_file(file)), options) << text << command;
    }
}

TEST(BrokerOptions, OneOptionHasOneValue) {
    EXPECT_THAT(with_option({}, "max", "2"), ElementsAre("--max", "2"));
    EXPECT_THAT(with_option({"--max", "1", "--metrics", "f", "--max=3"}, "max", "2"),
                ElementsAre("--metrics", "f", "--max", "2"));
    EXPECT_THAT(with_option({"--max"}, "max", "2"), ElementsAre("--max", "2"));
}

TEST(BrokerOptions, TheBrokerItselfJudges) {
    EXPECT_EQ(complaint_about(UPM_UPMD, {"--max", "4096", "--mode", "0666"}), "");
    EXPECT_THAT(complaint_about(UPM_UPMD, {"--max", "many"}), HasSubstr("many"));
    EXPECT_THAT(complaint_about(UPM_UPMD, {"--mode", "rw"}), HasSubstr("octal mode"));
    EXPECT_THAT(complaint_about(UPM_UPMD, {"stray"}), HasSubstr("stray"));
    EXPECT_EQ(complaint_about("/nowhere/upmd", {}), "");
}

} // namespace

} // namespace upm::tool::cli
