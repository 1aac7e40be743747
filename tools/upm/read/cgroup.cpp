// SPDX-License-Identifier: MIT
#include "tools/upm/read/cgroup.hpp"

#include "tools/common/errors.hpp"
#include "tools/common/text.hpp"
#include "tools/upm/read/mappings.hpp"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <fmt/format.h>

namespace upm::tool::cli {

namespace {

constexpr std::string_view kMembers = "/cgroup.procs";

bool is_cgroup(const Root &root, const std::string &folder) {
    return root.is_directory(folder) && root.exists(folder + std::string(kMembers));
}

bool has_option(std::string_view options, std::string_view option) {
    return fmt::format(",{},", options).find(fmt::format(",{},", option)) != std::string::npos;
}

// Smaller is better.
int preference(const Mount &mount) {
    if (mount.type == "cgroup2")
        return 0;
    return has_option(mount.super_options, "memory") ? 1 : 2;
}

std::string without_slashes_around(std::string_view name) {
    while (name.starts_with('/'))
        name.remove_prefix(1);
    while (name.ends_with('/'))
        name.remove_suffix(1);
    return std::string(name);
}

void read_members(const Root &root, const std::string &folder, CgroupMembers &members) {
    root.lines(folder + std::string(kMembers), [&](std::string_view line) {
        const auto pid = parse_integer<std::uint64_t>(line);
        if (!pid || *pid > INT_MAX)
            return;
        if (*pid == 0)
            ++members.foreign;
        else
            members.pids.push_back(static_cast<int>(*pid));
    });
    ++members.cgroups;
}

// A group below may go away at any time, and a threaded one has no list of its
// own: its processes stand in that of the domain above (EOPNOTSUPP).
bool harmless(int error) {
    return error == ENOENT || error == ENODEV || error == EOPNOTSUPP;
}

void walk(const Root &root, const std::string &folder, CgroupMembers &members) {
    for (const Root::Entry &entry : root.list(folder)) {
        if (!entry.directory)
            continue;
        const std::string below = fmt::format("{}/{}", folder, entry.name);
        try {
            read_members(root, below, members);
        } catch (const SystemError &error) {
            if (!harmless(error.error()))
                throw;
        }
        walk(root, below, members);
    }
}

} // namespace

std::string find_cgroup(const Root &root, std::string_view name) {
    const std::string plain = without_slashes_around(name);
    std::string tried;
    if (name.starts_with('/')) {
        std::string literal = plain.empty() ? "" : "/" + plain;
        if (!literal.empty() && is_cgroup(root, literal))
            return literal;
        tried = std::string(name);
    }
    std::vector<Mount> mounts = read_mounts(root);
    std::erase_if(mounts, [](const Mount &mount) {
        return mount.type != "cgroup" && mount.type != "cgroup2";
    });
    std::stable_sort(mounts.begin(), mounts.end(), [](const Mount &left, const Mount &right) {
        return preference(left) < preference(right);
    });
    for (const Mount &mount : mounts) {
        std::string folder = plain.empty() ? mount.point : mount.point + "/" + plain;
        if (is_cgroup(root, folder))
            return folder;
        tried += (tried.empty() ? "" : ", ") + folder;
    }
    throw SystemError("find control group",
                      tried.empty() ? fmt::format("{} (no hierarchy is mounted)", name)
                                    : fmt::format("{} (tried {})", name, tried),
                      ENOENT);
}

CgroupMembers cgroup_members(const Root &root, const std::string &folder) {
    CgroupMembers members;
    try {
        read_members(root, folder, members);
    } catch (const SystemError &error) {
        if (error.error() != EOPNOTSUPP)
            throw;
    }
    walk(root, folder, members);
    std::sort(members.pids.begin(), members.pids.end());
    members.pids.erase(std::unique(members.pids.begin(), members.pids.end()), members.pids.end());
    return members;
}

} // namespace upm::tool::cli
