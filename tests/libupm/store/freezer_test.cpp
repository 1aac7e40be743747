// SPDX-License-Identifier: MIT
//
// What is left of a freeze when it is over.
#include "libupm/store/freezer.hpp"

#include "tests/support/process.hpp"
#include "tests/support/support.hpp"

#include <cstdint>
#include <gtest/gtest.h>
#include <sys/mman.h>

namespace upm::test {

namespace {

using store::Freezer;

// A child that was forked during the freeze has the descriptor as well, so closing it does not
// end anything.
TEST(Freezer, ItEndsAlthoughAChildHasTheDescriptor) {
    const store::FreezeMode mode = store::find_freeze_mode();
    if (mode == store::FreezeMode::kProtect)
        GTEST_SKIP() << "freezes without userfaultfd";
    const Pages pages(4);
    pages.fill('x');
    const auto start = reinterpret_cast<std::uint64_t>(pages.data());
    Freezer freezer(mode);
    ASSERT_EQ(freezer.begin(start, pages.size(), PROT_READ | PROT_WRITE), 0);
    ASSERT_EQ(freezer.freeze(start, pages.size()), 0);
    const StayingChild child([] { return 0; });
    freezer.end();
    freezer.drop();
    Freezer next(mode);
    ASSERT_EQ(next.begin(start, pages.size(), PROT_READ | PROT_WRITE), 0) << "it is in use still";
    next.end();
    pages.fill('y');
    EXPECT_EQ(pages.page(3)[0], 'y');
}

} // namespace

} // namespace upm::test
