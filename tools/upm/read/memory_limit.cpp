// SPDX-License-Identifier: MIT
#include "tools/upm/read/memory_limit.hpp"

#include "tools/common/errors.hpp"
#include "tools/upm/read/mappings.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace upm::tool::cli {

namespace {

// Version 1 says "none" by a number near the largest one.
constexpr std::uint64_t kNone = std::uint64_t{1} << 60U;

bool names_memory(std::string_view controllers) {
    const std::vector<std::string> names = split(controllers, ',');
    return std::ranges::find(names, "memory") != names.end();
}

void take_lowest(const Root &root, const std::string &file, MemoryLimit &limit) {
    const auto bytes = root.number(file); // "max" is no number
    if (bytes && *bytes < kNone && (limit.file.empty() || *bytes < limit.bytes))
        limit = {.file = file, .bytes = *bytes};
}

// The group and all that are above it.
void walk_up(const Root &root, const Mount &mount, std::string group, MemoryLimit &limit) {
    const char *const name = mount.type == "cgroup2" ? "memory.max" : "memory.limit_in_bytes";
    if (mount.root != "/" && group.starts_with(mount.root))
        group.erase(0, mount.root.size());
    while (true) {
        while (group.ends_with('/'))
            group.pop_back();
        take_lowest(root, fmt::format("{}{}/{}", mount.point, group, name), limit);
        if (group.empty())
            return;
        group.resize(group.rfind('/') == std::string::npos ? 0 : group.rfind('/'));
    }
}

} // namespace

MemoryLimit memory_limit(const Root &root, pid_t pid) {
    MemoryLimit limit;
    try {
        const std::vector<Mount> mounts = read_mounts(root);
        root.lines(fmt::format("/proc/{}/cgroup", pid), [&](std::string_view line) {
            const std::vector<std::string> parts = split(line, ':');
            if (parts.size() < 3)
                return;
            const bool second = parts[0] == "0" && parts[1].empty();
            if (!second && !names_memory(parts[1]))
                return;
            for (const Mount &mount : mounts)
                if (second ? mount.type == "cgroup2"
                           : mount.type == "cgroup" && names_memory(mount.super_options))
                    walk_up(root, mount, parts[2], limit);
        });
    } catch (const SystemError &) {
        return {}; // not to be seen
    }
    return limit;
}

} // namespace upm::tool::cli
