// SPDX-License-Identifier: MIT
//
// Tests of the kernel module through /dev/upm. They change the settings of the
// machine, so run them in a VM: tests/vm/run -- build/bin/upm-kmod-tests
#include "tests/kmod/support/device.hpp"
#include "tests/support/region.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>

#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv) {
    testing::InitGoogleTest(&argc, argv);
    if (testing::GTEST_FLAG(list_tests))
        return RUN_ALL_TESTS();
    if (!upm::test::exists(UPM_DEVICE) || ::geteuid() != 0) {
        std::cout << "skipped: needs root and " UPM_DEVICE " (run it with tests/vm/run)\n";
        return 4;
    }
    upm::test::use_disk();
    if (upm::test::disk().empty())
        std::cout << "no disk: files of the tests are in memory\n";
    const int status = RUN_ALL_TESTS();
    upm::test::drop_disk();
    return status;
}
