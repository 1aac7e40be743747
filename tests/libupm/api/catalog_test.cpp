// SPDX-License-Identifier: MIT
#include "libupm/api/catalog.hpp"

#include <gtest/gtest.h>

namespace upm {

namespace {

TEST(Catalog, IsInOrderOfPreference) {
    const Catalog catalog = default_catalog();
    ASSERT_EQ(catalog.size(), 4U);
    EXPECT_STREQ(catalog[0].name, "kmod");
    EXPECT_STREQ(catalog[1].name, "store");
    EXPECT_STREQ(catalog[2].name, "ksm");
    EXPECT_STREQ(catalog[3].name, "none");
    for (const CatalogRow &row : catalog) {
        if (row.backend != nullptr) {
            EXPECT_STREQ(row.backend->name(), row.name);
        }
    }
    EXPECT_NE(catalog.back().backend, nullptr);
}

} // namespace

} // namespace upm
