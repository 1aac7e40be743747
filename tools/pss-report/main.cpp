// SPDX-License-Identifier: MIT
#include "tools/pss-report/command.hpp"

int main(int argc, char **argv) {
    return upm::tool::pss::run_command({argv + (argc > 0 ? 1 : 0), argv + argc});
}
