// SPDX-License-Identifier: MIT
//
// Finding a control group, of version 1 or 2, and the processes in it.
#ifndef UPM_TOOLS_UPM_READ_CGROUP_HPP
#define UPM_TOOLS_UPM_READ_CGROUP_HPP

#include "tools/common/root.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace upm::tool::cli {

// The folder of a control group. `name` is its path in the file system, or below
// the mount of a hierarchy (version 2 first, then that of the memory controller,
// then the others). Throws SystemError that lists where it was looked for.
std::string find_cgroup(const Root &root, std::string_view name);

struct CgroupMembers {
    std::vector<int> pids; // sorted, each once
    unsigned foreign = 0;  // of other pid namespaces: not to be seen from here
    unsigned cgroups = 0;  // looked into, the group itself included
};

// The processes of a group and of those below it. Groups that go away meanwhile
// are no error, but the group itself must be there: throws SystemError.
CgroupMembers cgroup_members(const Root &root, const std::string &folder);

} // namespace upm::tool::cli

#endif // UPM_TOOLS_UPM_READ_CGROUP_HPP
