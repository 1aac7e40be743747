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
    const Outlook expected = outlook(info("store"), {});
    EXPECT_TRUE(expected.merges);
    EXPECT_EQ(expected.what, "private anonymous pages, at once");
    EXPECT_EQ(expected.cure, "");
    Info module = info("kmod");
    module.file_pages = 1;
    EXPECT_THAT(outlook(module, {}).what, HasSubstr("file pages"));
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

// The mode of Docker's default container, and of an ordinary user on a default system.
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
