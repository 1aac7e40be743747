// SPDX-License-Identifier: MIT
//
// Reads every variable: what a program with more rights than its caller says of them is
// for env_test.cpp to see.
#include "libupm/base/env.hpp"

#include <cstdio>

int main() {
    upm::env::report_all();
    upm::env::report_all();
    std::printf("%s\n", upm::env::get(upm::env::verbose) ? "verbose" : "quiet");
}
