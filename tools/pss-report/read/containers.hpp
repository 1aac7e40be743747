// SPDX-License-Identifier: MIT
//
// Control groups, and the containers that they belong to.
#ifndef UPM_TOOLS_PSS_REPORT_READ_CONTAINERS_HPP
#define UPM_TOOLS_PSS_REPORT_READ_CONTAINERS_HPP

#include "tools/common/root.hpp"
#include "tools/pss-report/model/snapshot.hpp"

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace upm::tool::pss {

// The different paths in /proc/PID/cgroup, without the root: first that of the memory
// controller, then that of version 2, then the others. The root alone if there is
// nothing else.
std::vector<std::string> cgroup_paths(std::string_view text);

// Containers whose cgroups are called as the user likes, by name, and their runtimes: what
// runc, crun and containerd keep below /run.
std::map<std::string, std::string> container_runtimes(const Root &root);

// `names`: as container_runtimes() has them.
Container container_of(std::string_view cgroup,
                       const std::map<std::string, std::string> &names = {});

struct Placement {
    std::string cgroup;
    Container container;
};

// The first path that names a container, else the first. On a host with both versions,
// that of version 2 may only say where the runtime's own service is.
Placement placement_of(const std::vector<std::string> &paths,
                       const std::map<std::string, std::string> &names);

} // namespace upm::tool::pss

#endif // UPM_TOOLS_PSS_REPORT_READ_CONTAINERS_HPP
