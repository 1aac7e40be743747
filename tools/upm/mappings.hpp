// SPDX-License-Identifier: MIT
//
// What /proc says of other processes' memory.
#ifndef UPM_TOOLS_MAPPINGS_HPP
#define UPM_TOOLS_MAPPINGS_HPP

#include "tools/upm/files.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace upm::tool {

// One line of /proc/PID/maps.
struct Mapping {
    std::uint64_t start = 0;
    std::uint64_t end = 0;
    char permissions[5] = "----"; // "rw-p"
    std::uint64_t offset = 0;
    std::uint64_t inode = 0;
    // As the kernel prints it: any bytes, a newline as the four characters \012,
    // " (deleted)" behind the name of an unlinked file.
    std::string name;

    [[nodiscard]] std::uint64_t size() const { return end - start; }
    [[nodiscard]] bool shared() const { return permissions[3] == 's'; }
    [[nodiscard]] bool accessible() const { return std::string_view(permissions, 3) != "---"; }
    [[nodiscard]] bool file() const { return inode != 0; }
    // By its name alone: a living file may be called so, too.
    [[nodiscard]] bool deleted() const { return file() && name.ends_with(" (deleted)"); }
};

// One line of /proc/PID/mountinfo, its octal escapes undone.
struct Mount {
    std::string root;
    std::string point;
    std::string type;
    std::string super_options;
};

std::optional<Mapping> parse_mapping(std::string_view line);
std::optional<Mount> parse_mount(std::string_view line);

// Throw SystemError; ESRCH for a process that is gone.
std::vector<Mapping> read_mappings(const Root &root, int pid);
std::vector<Mount> read_mounts(const Root &root);

// The command name of a process, any bytes; empty when it is gone.
std::string command_name(const Root &root, int pid);

} // namespace upm::tool

#endif // UPM_TOOLS_MAPPINGS_HPP
