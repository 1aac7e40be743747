// SPDX-License-Identifier: MIT
//
// Which container a cgroup belongs to is only told by its path, which the runtimes write
// each in its own way: these are conventions.
#include "tools/pss-report/read/containers.hpp"

#include "tools/common/text.hpp"

#include <algorithm>
#include <array>
#include <fmt/format.h>

namespace upm::tool::pss {

namespace {

bool is_hex(std::string_view text) {
    return !text.empty() && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

// systemd writes a dash in a unit's name as \x2d.
std::string unescaped_unit(std::string_view text) {
    std::string out;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text.substr(i, 2) == "\\x" && i + 4 <= text.size())
            if (const auto code = parse_integer<unsigned char>(text.substr(i + 2, 2), 16)) {
                out += static_cast<char>(*code);
                i += 3;
                continue;
            }
        out += text[i];
    }
    return out;
}

struct Prefix {
    std::string_view prefix;
    std::string_view runtime;
};

// Scopes that runtimes have systemd make: prefix, id, ".scope".
constexpr std::array<Prefix, 9> kScopes = {{{"docker-", "docker"},
                                            {"cri-containerd-", "containerd"},
                                            {"nerdctl-", "containerd"},
                                            {"crio-", "cri-o"},
                                            {"libpod-", "podman"},
                                            {"runc-", "runc"},
                                            {"crun-", "crun"},
                                            {"machine-", "machine"},
                                            {"lxc-", "lxc"}}};

// Folders that hold one group for each container, called by its id or by a name.
struct Parent {
    std::string_view folder;
    std::string_view runtime;
    bool named = false;
};
constexpr std::array<Parent, 8> kParents = {{{"docker", "docker"},
                                             {"libpod_parent", "podman"},
                                             {"ecs", "ecs"},
                                             {"lxc", "lxc", true},
                                             {"lxc.payload", "lxc", true},
                                             {"buildkit", "buildkit", true},
                                             {"garden", "garden", true},
                                             {"firecracker", "firecracker", true}}};

// Groups that are called by this and an id.
constexpr std::array<Prefix, 4> kPrefixes = {{{"libpod-payload-", "podman"}, // of a unit
                                              {"libpod-", "podman"},
                                              {"crio-", "cri-o"},
                                              {"kata_", "kata"}}};

constexpr std::size_t kIdLength = 64;            // of Docker's kind, in hexadecimal
constexpr std::string_view kGone = " (deleted)"; // stands behind the path of a removed group

bool is_id(std::string_view text) {
    return text.size() == kIdLength && is_hex(text);
}

// The uid that kubelet names a pod's cgroup by, or the id of podman's. The slice of the
// latter is below that of machines or of users.
std::string pod_of(std::string_view step, std::string_view parent) {
    if (parent == "libpod_parent" && is_id(step))
        return std::string(step);
    step = step.substr(0, step.find(':'));
    if (step.ends_with(".slice"))
        step.remove_suffix(6);
    constexpr std::string_view kPodman = "-libpod_pod_";
    if (const std::size_t at = step.find(kPodman); at != std::string_view::npos)
        return std::string(step.substr(at + kPodman.size()));
    // podUID (cgroupfs), or kubepods-burstable-podUID, in which systemd has _ for -; kind
    // puts kubelet- before that.
    const bool unit = step.find("kubepods-") != std::string_view::npos;
    const std::size_t at = unit ? step.rfind("-pod") : 0;
    if (at == std::string_view::npos)
        return "";
    std::string uid(step.substr(unit ? at + 1 : 0));
    constexpr std::size_t kShortest = 32; // of a uid without its dashes
    if (!uid.starts_with("pod") || uid.size() < 3 + kShortest)
        return "";
    uid.erase(0, 3);
    std::replace(uid.begin(), uid.end(), '_', '-');
    return uid.find_first_not_of("0123456789abcdef-") == std::string::npos ? uid : "";
}

// The monitor of a container, not the container.
bool is_monitor(std::string_view name) {
    return name.starts_with("libpod-conmon-") || name.starts_with("crio-conmon-") ||
           name.starts_with("lxc.monitor");
}

Container of_scope(std::string_view name) {
    for (const auto &[prefix, runtime] : kScopes)
        if (name.starts_with(prefix) && name.size() > prefix.size())
            return {std::string(runtime), unescaped_unit(name.substr(prefix.size()))};
    return {};
}

// One step of a cgroup's path below `parent`.
Container container_step(std::string_view step, std::string_view parent) {
    if (is_monitor(step))
        return {};
    if (step.ends_with(".scope"))
        return of_scope(step.substr(0, step.size() - 6));
    constexpr std::string_view kNspawn = "systemd-nspawn@";
    if (step.starts_with(kNspawn) && step.ends_with(".service"))
        return {"nspawn",
                unescaped_unit(step.substr(kNspawn.size(), step.size() - kNspawn.size() - 8))};
    if (step.starts_with("lxc.payload."))
        return {"lxc", std::string(step.substr(12))};
    for (const auto &[prefix, runtime] : kPrefixes)
        if (step.starts_with(prefix) && is_hex(step.substr(prefix.size())))
            return {std::string(runtime), std::string(step.substr(prefix.size()))};
    if (step.starts_with("buildah-buildah"))
        return {"buildah", std::string(step)};
    // cgroups of containerd and CRI-O when kubelet uses systemd and they do not:
    // SLICE:RUNTIME:ID
    if (const std::size_t at = step.rfind(':'); at != std::string_view::npos)
        if (const std::string_view id = step.substr(at + 1); is_id(id)) {
            const std::string_view middle = step.substr(0, at);
            const std::string_view runtime = middle.substr(middle.rfind(':') + 1);
            return {runtime == "crio" ? "cri-o" : "containerd", std::string(id)};
        }
    for (const auto &[folder, runtime, named] : kParents)
        if (parent == folder && (named || is_hex(step)))
            return {std::string(runtime), std::string(step)};
    // A task of ECS has several containers: /ecs/TASK/TASK-NUMBER.
    if (is_hex(parent) && parent.size() >= kIdLength / 2 && step.starts_with(parent) &&
        step.substr(parent.size()).starts_with('-'))
        return {"ecs", std::string(step)};
    // Ids of Docker's kind, wherever they are: Kubernetes with cgroupfs, ctr.
    if (is_id(step))
        return {"container", std::string(step)};
    return {};
}

bool has_memory_controller(std::string_view controllers) {
    return ("," + std::string(controllers) + ",").find(",memory,") != std::string::npos;
}

} // namespace

std::vector<std::string> cgroup_paths(std::string_view text) {
    std::vector<std::string> memory, unified, others;
    bool root = false;
    for_each_line(text, [&](std::string_view line) {
        // "4:memory:/path"; the path may hold colons.
        const std::size_t first = line.find(':');
        const std::size_t second =
            first == std::string_view::npos ? first : line.find(':', first + 1);
        if (second == std::string_view::npos)
            return;
        const std::string_view controllers = line.substr(first + 1, second - first - 1);
        std::string_view path = line.substr(second + 1);
        if (path.ends_with(kGone))
            path.remove_suffix(kGone.size());
        root = root || path == "/";
        if (path.empty() || path == "/")
            return;
        (has_memory_controller(controllers) ? memory
         : controllers.empty()              ? unified
                                            : others)
            .emplace_back(path);
    });
    std::vector<std::string> paths = std::move(memory);
    for (std::vector<std::string> *const more : {&unified, &others})
        for (std::string &path : *more)
            if (std::find(paths.begin(), paths.end(), path) == paths.end())
                paths.push_back(std::move(path));
    if (paths.empty() && root)
        paths.emplace_back("/");
    return paths;
}

std::map<std::string, std::string> container_runtimes(const Root &root) {
    std::map<std::string, std::string> found;
    const auto add = [&](const std::string &folder, const char *runtime) {
        for (const std::string &id : root.names(folder))
            found.emplace(id, runtime);
    };
    std::vector<std::string> places = {"/run"};
    for (const std::string &user : root.names("/run/user"))
        places.push_back("/run/user/" + user);
    for (const std::string &place : places)
        for (const char *runtime : {"runc", "crun"})
            add(fmt::format("{}/{}", place, runtime), runtime);
    add("/run/docker/runtime-runc/moby", "runc");
    for (const std::string &space : root.names("/run/containerd/runc"))
        add("/run/containerd/runc/" + space, "containerd");
    return found;
}

Container container_of(std::string_view cgroup, const std::map<std::string, std::string> &names) {
    Container found;
    Container unit;
    std::string pod;
    std::string_view parent;
    std::string_view rest = cgroup;
    while (!rest.empty()) {
        const std::size_t end = std::min(rest.find('/'), rest.size());
        const std::string_view step = rest.substr(0, end);
        rest.remove_prefix(std::min(end + 1, rest.size()));
        if (step.empty())
            continue;
        if (std::string here = pod_of(step, parent); !here.empty())
            pod = std::move(here);
        // Containers inside containers: the innermost counts.
        if (Container container = container_step(step, parent); !container.runtime.empty())
            found = std::move(container);
        else if (const auto known = names.find(std::string(step)); known != names.end())
            found = {known->second, known->first};
        else if (step.ends_with(".scope") || step.ends_with(".service"))
            unit = {"systemd", unescaped_unit(step)};
        parent = step;
    }
    if (found.runtime.empty())
        return unit;
    if (pod != found.id)
        found.pod = std::move(pod);
    return found;
}

Placement placement_of(const std::vector<std::string> &paths,
                       const std::map<std::string, std::string> &names) {
    Placement first;
    for (const std::string &path : paths) {
        Placement here{path, container_of(path, names)};
        if (!here.container.runtime.empty() && here.container.runtime != "systemd")
            return here;
        if (first.cgroup.empty())
            first = std::move(here);
    }
    return first;
}

} // namespace upm::tool::pss
