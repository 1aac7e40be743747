// SPDX-License-Identifier: MIT
#ifndef UPM_TOOLS_PSS_REPORT_COMMAND_HPP
#define UPM_TOOLS_PSS_REPORT_COMMAND_HPP

#include <string>
#include <vector>

namespace upm::tool::pss {

inline constexpr int kSuccess = 0;
inline constexpr int kFailed = 1;
inline constexpr int kUsage = 2;

// The whole program. Prints errors to stderr and returns the exit status.
int run_command(const std::vector<std::string> &arguments);

} // namespace upm::tool::pss

#endif // UPM_TOOLS_PSS_REPORT_COMMAND_HPP
