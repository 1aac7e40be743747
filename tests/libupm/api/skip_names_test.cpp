// SPDX-License-Identifier: MIT
#include <upm/upm.hpp>

#include "kmod/uapi/upm.h"

#include <gtest/gtest.h>
#include <set>
#include <string>

namespace upm::test {

namespace {

TEST(SkipNames, EveryKernelReasonHasItsOwn) {
    std::set<std::string> names;
    for (unsigned reason = 0; reason < UPM_SKIP_NR; ++reason) {
        ASSERT_NE(upm_skip_name(reason), nullptr) << reason;
        EXPECT_TRUE(names.insert(upm_skip_name(reason)).second) << upm_skip_name(reason);
    }
    EXPECT_STREQ(upm_skip_name(UPM_SKIPPED_UNSUPPORTED), "unsupported");
}

// Scripts read these words.
TEST(SkipNames, AreStable) {
    EXPECT_STREQ(upm_skip_name(UPM_SKIP_NOT_PRESENT), "not_present");
    EXPECT_STREQ(upm_skip_name(UPM_SKIP_SWAPPED), "swapped");
    EXPECT_STREQ(upm_skip_name(UPM_SKIP_BUSY), "busy");
    EXPECT_STREQ(upm_skip_name(UPM_SKIP_SHARED), "shared");
    EXPECT_STREQ(upm_skip_name(UPM_SKIP_HUGETLB), "hugetlb");
    EXPECT_STREQ(upm_skip_name(UPM_SKIP_SPECIAL), "special");
    EXPECT_STREQ(upm_skip_name(UPM_SKIP_UFFD), "uffd");
    EXPECT_STREQ(upm_skip_name(UPM_SKIP_SECRET), "secret");
    EXPECT_STREQ(upm_skip_name(UPM_SKIP_KSM), "ksm");
    EXPECT_STREQ(upm_skip_name(UPM_SKIP_COMPOUND), "compound");
    EXPECT_STREQ(upm_skip_name(UPM_SKIP_LIMIT), "limit");
    EXPECT_STREQ(upm_skip_name(UPM_SKIP_NOMEM), "nomem");
    EXPECT_STREQ(upm_skip_name(UPM_SKIP_COLLISION), "collision");
    EXPECT_STREQ(upm_skip_name(UPM_SKIP_FILE), "file");
    EXPECT_STREQ(upm_skip_name(UPM_SKIP_UNMAPPED), "unmapped");
    EXPECT_STREQ(upm_skip_name(UPM_SKIP_PRESENT), "present");
}

TEST(SkipNames, UnusedSlotsHaveNone) {
    EXPECT_EQ(upm_skip_name(UPM_SKIP_NR), nullptr);
    EXPECT_EQ(upm_skip_name(UPM_SKIPPED_NR), nullptr);
    EXPECT_EQ(upm_skip_name(~0U), nullptr);
    EXPECT_EQ(skip_name(UPM_SKIPPED_NR), "");
    EXPECT_EQ(skip_name(UPM_SKIPPED_BUSY), "busy");
}

} // namespace

} // namespace upm::test
