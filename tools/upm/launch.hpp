// SPDX-License-Identifier: MIT
//
// How a program is started with the hook preloaded: for run and seed.
#ifndef UPM_TOOLS_UPM_LAUNCH_HPP
#define UPM_TOOLS_UPM_LAUNCH_HPP

#include "tools/upm/cli.hpp"

#include <string>

namespace upm::tool::cli {

// Sets a variable of the environment. Throws SystemError.
void set_environment(const char *name, const std::string &value);

// Has ld.so load the hook in front of what it loads already, unless `command` is of another
// machine or word size: then ld.so would only complain. Throws std::runtime_error.
void preload(const std::string &hook, const std::string &command);

// A program in which nothing will be merged runs all the same, but not without a word.
// UPM_VERBOSE asks for one in any case; UPM_BACKEND=none asks for nothing else. `speaker` is
// the command that says it.
void say_what_merges(const char *speaker, const std::string &command, const std::string &scope);

// Becomes that program. Returns an exit status only if it cannot, having said why.
int become(const char *speaker, const Arguments &words);

} // namespace upm::tool::cli

#endif // UPM_TOOLS_UPM_LAUNCH_HPP
