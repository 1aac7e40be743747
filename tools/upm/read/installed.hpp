// SPDX-License-Identifier: MIT
//
// Where the parts of this installation, or of this build, lie.
#ifndef UPM_TOOLS_UPM_READ_INSTALLED_HPP
#define UPM_TOOLS_UPM_READ_INSTALLED_HPP

#include <string>

namespace upm::tool::cli {

// The hook's path: beside the folder of this very program. Throws std::runtime_error if it
// is not there.
std::string find_hook();

} // namespace upm::tool::cli

#endif // UPM_TOOLS_UPM_READ_INSTALLED_HPP
