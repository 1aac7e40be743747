// SPDX-License-Identifier: MIT
//
// Where the parts of this installation, or of this build, lie.
#ifndef UPM_TOOLS_UPM_READ_INSTALLED_HPP
#define UPM_TOOLS_UPM_READ_INSTALLED_HPP

#include <string>
#include <unistd.h>

namespace upm::tool::cli {

// The hook's path: beside the folder of this very program, or in that. `mode`, of access(2), is
// what this user must be allowed to do with it. Throws std::runtime_error if it is not there.
std::string find_hook(int mode = R_OK);

// The path of upm-layout; empty: it is not there.
std::string find_launcher();

} // namespace upm::tool::cli

#endif // UPM_TOOLS_UPM_READ_INSTALLED_HPP
