// SPDX-License-Identifier: MIT
//
// upm: the command of user-guided page merging; see upm(1).
#include "tools/upm/cli.hpp"

#include <cstdio>
#include <exception>

int main(int argc, char **argv) {
    try {
        return upm::tool::cli::run_command(
            upm::tool::cli::Arguments(argv + (argc > 0 ? 1 : 0), argv + argc));
    } catch (const std::exception &error) {
        (void)std::fprintf(stderr, "upm: %s\n", error.what());
        return upm::tool::cli::kFailure;
    }
}
