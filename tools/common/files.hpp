// SPDX-License-Identifier: MIT
//
// Files that a user names: what a tool writes, and reads again.
#ifndef UPM_TOOLS_COMMON_FILES_HPP
#define UPM_TOOLS_COMMON_FILES_HPP

#include <string>
#include <string_view>

namespace upm::tool {

// Writes a file beside the wanted one and renames it over that, so that readers see
// the old or the new content, whole; devices, pipes and terminals are written as they
// are. Throws SystemError.
void write_atomically(const std::string &path, std::string_view content);
void append_line(const std::string &path, std::string_view line);
// Throws SystemError.
std::string read_file(const std::string &path);

} // namespace upm::tool

#endif // UPM_TOOLS_COMMON_FILES_HPP
