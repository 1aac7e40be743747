// SPDX-License-Identifier: MIT
//
// What /proc says of other processes' memory.
#ifndef UPM_TOOLS_UPM_READ_MAPPINGS_HPP
#define UPM_TOOLS_UPM_READ_MAPPINGS_HPP

#include "tools/common/maps.hpp"
#include "tools/common/root.hpp"

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace upm::tool::cli {

// One line of /proc/PID/mountinfo, its octal escapes undone.
struct Mount {
    std::string root;
    std::string point;
    std::string type;
    std::string super_options;
};

std::optional<Mount> parse_mount(std::string_view line);

// Throw SystemError; ESRCH for a process that is gone.
std::vector<Mapping> read_mappings(const Root &root, int pid);
std::vector<Mount> read_mounts(const Root &root);

// The mount points of hugetlbfs, with a slash at the end.
std::vector<std::string> hugetlb_mounts(const std::vector<Mount> &mounts);

// The command name of a process, any bytes; empty when it is gone.
std::string command_name(const Root &root, int pid);

} // namespace upm::tool::cli

#endif // UPM_TOOLS_UPM_READ_MAPPINGS_HPP
