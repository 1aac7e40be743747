// SPDX-License-Identifier: MIT
//
// The options that the system's broker is started with, and what it says of them.
#ifndef UPM_TOOLS_UPM_READ_BROKER_OPTIONS_HPP
#define UPM_TOOLS_UPM_READ_BROKER_OPTIONS_HPP

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace upm::tool::cli {

// Of upmd.service.
inline constexpr const char *kBrokerDefaults = "/etc/default/upmd";

// The words of UPMD_OPTIONS in such a file, as systemd splits them; nothing: quotes or
// backslashes within say more than is understood here.
std::optional<std::vector<std::string>> broker_options(std::string_view text);

// Runs that upmd with these options and --check: its first line, which says what is wrong with
// them; empty: nothing is, or it cannot be told.
std::string complaint_about(const std::string &upmd, const std::vector<std::string> &options);

} // namespace upm::tool::cli

#endif // UPM_TOOLS_UPM_READ_BROKER_OPTIONS_HPP
