// SPDX-License-Identifier: MIT
#include "tools/pss-report/model/filter.hpp"

#include <algorithm>
#include <fnmatch.h>

namespace upm::tool::pss {

namespace {

bool matches(const std::string &pattern, const std::string &text) {
    return ::fnmatch(pattern.c_str(), text.c_str(), 0) == 0;
}

// The group itself or one above it; a pattern may leave the first slash out, and end with
// one.
bool matches_cgroup(std::string pattern, std::string path) {
    while (pattern.ends_with('/'))
        if (pattern.pop_back(); pattern.empty())
            return true; // the root
    const std::string wanted = pattern.starts_with('/') ? pattern : "/" + pattern;
    for (;;) {
        if (matches(wanted, path) || matches(pattern, path))
            return true;
        const std::size_t slash = path.rfind('/');
        if (slash == std::string::npos || slash == 0)
            return false;
        path.resize(slash);
    }
}

} // namespace

bool wanted(const Filter &filter, const Process &process) {
    const auto any = [](const std::vector<std::string> &list, const auto &test) {
        return list.empty() || std::any_of(list.begin(), list.end(), test);
    };
    return (filter.pids.empty() || filter.pids.contains(process.pid)) &&
           any(filter.names,
               [&](const std::string &name) { return matches(name, process.command); }) &&
           any(filter.users,
               [&](const std::string &user) {
                   return user == process.user || user == std::to_string(process.uid);
               }) &&
           any(filter.cgroups, [&](const std::string &cgroup) {
               return matches_cgroup(cgroup, process.cgroup) ||
                      std::any_of(
                          process.cgroups.begin(), process.cgroups.end(),
                          [&](const std::string &path) { return matches_cgroup(cgroup, path); });
           });
}

} // namespace upm::tool::pss
