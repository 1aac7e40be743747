// SPDX-License-Identifier: MIT
//
// What is said of a machine must be what happens there.
#include "tools/upm/model/outlook.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace upm::tool::cli {

namespace {

using testing::HasSubstr;
using testing::Not;

Info info(const char *backend) {
    Info found{};
    found.backend = backend;
    found.reason = "";
    found.immediate = 1;
    return found;
}

TEST(Outlook, AtOnce) {
    Info module = info("kmod");
    const Outlook expected = outlook(module, {});
    EXPECT_TRUE(expected.merges);
    EXPECT_EQ(expected.what, "private anonymous pages, at once");
    EXPECT_EQ(expected.cure, "");
    module.file_pages = 1;
    EXPECT_THAT(outlook(module, {}).what, HasSubstr("file pages"));
}

// The store, with and without the privilege to freeze.
TEST(Outlook, WhatIsRead) {
    Info store = info("store");
    store.load = 2;
    const Outlook expected = outlook(store, {});
    EXPECT_TRUE(expected.merges);
    EXPECT_THAT(expected.what, HasSubstr("files that programs read"));
    EXPECT_THAT(expected.what, HasSubstr("UPM_SCOPE=blocks"));
    EXPECT_EQ(expected.cure, "");
    store.quiescent = 1;
    const Outlook user = outlook(store, {.filtered = true, .in_initial = true});
    EXPECT_TRUE(user.merges);
    EXPECT_THAT(user.what, HasSubstr("files that programs read"));
    EXPECT_THAT(user.what, Not(HasSubstr("anonymous")));
    EXPECT_EQ(user.cure, "");
}

// KSM merges, and the store shares what is read.
TEST(Outlook, BothOfThem) {
    Info ksm = info("ksm");
    ksm.immediate = 0;
    ksm.load = 2;
    EXPECT_THAT(outlook(ksm, {}).what, HasSubstr("files that programs read"));
    EXPECT_THAT(outlook(ksm, {}).what, HasSubstr("whole machine"));
}

TEST(Outlook, Later) {
    Info ksm = info("ksm");
    ksm.immediate = 0;
    const Outlook expected = outlook(ksm, {});
    EXPECT_TRUE(expected.merges);
    EXPECT_THAT(expected.what, HasSubstr("whole machine"));
    EXPECT_THAT(expected.what, Not(HasSubstr("at once")));
    EXPECT_NE(expected.cure, "");
}

TEST(Outlook, NothingWithoutABackend) {
    const Outlook expected = outlook(info("none"), {});
    EXPECT_FALSE(expected.merges);
    EXPECT_EQ(expected.what, "nothing");
    EXPECT_NE(expected.cure, "");
}

// Where there is no broker that makes segments of files.
TEST(Outlook, NothingOfUnmodifiedProgramsWithoutFreezing) {
    Info store = info("store");
    store.quiescent = 1;
    const Outlook user = outlook(store, {.filtered = false, .in_initial = true});
    EXPECT_FALSE(user.merges);
    EXPECT_THAT(user.what, HasSubstr("nothing of unmodified programs"));
    EXPECT_THAT(user.cure, HasSubstr("sysctl vm.unprivileged_userfaultfd=1"));
    EXPECT_THAT(outlook(store, {.filtered = true, .in_initial = true}).cure, HasSubstr("seccomp"));
    EXPECT_THAT(outlook(store, {.filtered = false, .in_initial = false}).cure,
                HasSubstr("on the host"));
}

} // namespace

} // namespace upm::tool::cli
