// SPDX-License-Identifier: MIT
//
// What upmd.service is started with, and whether upmd takes it.
#include "tools/upm/read/broker_options.hpp"

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
    for (const char *text : {"UPMD_OPTIONS=\"a 'b c'\"", "UPMD_OPTIONS=a\\", "UPMD_OPTIONS=\"$X\"",
                             "UPMD_OPTIONS=\"a"})
        EXPECT_EQ(broker_options(text), std::nullopt) << text;
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
