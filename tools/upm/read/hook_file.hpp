// SPDX-License-Identifier: MIT
//
// What the hook asks of a system: read from the file, since it is loaded into containers
// whose libraries are not those of this machine.
#ifndef UPM_TOOLS_UPM_READ_HOOK_FILE_HPP
#define UPM_TOOLS_UPM_READ_HOOK_FILE_HPP

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace upm::tool::cli {

struct HookFile {
    std::vector<std::string> libraries; // that must be there
    std::string glibc;                  // newest version asked for, "2.34"; empty: none
};

// Nothing if the text is no shared library of this machine.
std::optional<HookFile> parse_hook_file(std::string_view content);

// Returns true if the version `left` is older than `right`; both as "2.36".
bool older_version(std::string_view left, std::string_view right);

} // namespace upm::tool::cli

#endif // UPM_TOOLS_UPM_READ_HOOK_FILE_HPP
