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

// The words of UPMD_OPTIONS in such a file, as systemd splits them: a quote that nothing closes
// takes in the rest of the file. Nothing: quotes or backslashes within say more than is
// understood here.
std::optional<std::vector<std::string>> broker_options(std::string_view text);

// These options with --NAME VALUE at their end, and no other value of it.
std::vector<std::string> with_option(const std::vector<std::string> &options, std::string_view name,
                                     std::string_view value);

// A command for a shell: the file, which holds this text, then has these options alone. What
// it had stays behind a '#'.
std::string command_to_set_options(const std::string &file, std::string_view text,
                                   const std::vector<std::string> &options);

// Runs that upmd with these options and --check: its first line, which says what is wrong with
// them; empty: nothing is, or it cannot be told.
std::string complaint_about(const std::string &upmd, const std::vector<std::string> &options);

} // namespace upm::tool::cli

#endif // UPM_TOOLS_UPM_READ_BROKER_OPTIONS_HPP
