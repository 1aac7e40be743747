// SPDX-License-Identifier: MIT
//
// What a mapping is used for, and which container a cgroup belongs to: both are only
// told by names and shapes that others chose, so both are conventions, listed here.
#include "tools/common/text.hpp"
#include "tools/pss-report/read/parse.hpp"

#include <algorithm>
#include <array>

namespace upm::tool::pss {

namespace {

constexpr std::uint64_t kMib = std::uint64_t{1} << 20U;
// Loaders put tensors into blocks of their own from glibc's mmap threshold on, which
// grows to 32 MiB at most; smaller ones are heaps of interpreters.
constexpr std::uint64_t kWeightsSize = 4 * kMib;
// glibc's HEAP_MAX_SIZE on 64 bits: the size and alignment of a thread's malloc arena.
constexpr std::uint64_t kArenaSize = 64 * kMib;
constexpr std::uint64_t kGuardMax = kMib;

bool is_anonymous(const MeasuredMapping &mapping) {
    return !mapping.file() &&
           (mapping.name.empty() || mapping.name.starts_with("[anon:") || mapping.name == " ");
}

// Accessible part and reserve of an arena are neighbours and fill it.
bool is_arena(const MeasuredMapping &mapping, const MeasuredMapping *next) {
    if (mapping.start % kArenaSize != 0 || mapping.size() > kArenaSize)
        return false;
    if (mapping.size() == kArenaSize)
        return false; // could as well be anything: full arenas are rare
    return next != nullptr && next->start == mapping.end && !next->accessible() && !next->file() &&
           next->end - mapping.start == kArenaSize;
}

// A thread's stack lies above its guard page.
bool is_thread_stack(const MeasuredMapping &mapping, const MeasuredMapping *before) {
    return before != nullptr && before->end == mapping.start && !before->accessible() &&
           !before->file() && before->size() <= kGuardMax && mapping.size() <= kArenaSize;
}

Kind kind_of_file(const MeasuredMapping &mapping) {
    if (mapping.flags.hugetlb || mapping.name.starts_with("/anon_hugepage"))
        return Kind::kHugetlb;
    if (mapping.store())
        return Kind::kStore;
    constexpr std::array<std::string_view, 4> kMemory = {"/memfd:", "/dev/shm/", "/SYSV",
                                                         "/dev/zero"};
    for (const std::string_view prefix : kMemory)
        if (mapping.name.starts_with(prefix))
            return Kind::kShmem;
    if (mapping.name.starts_with("/dev/"))
        return Kind::kSpecial;
    if (mapping.executable())
        return Kind::kText;
    if (!mapping.shared() && mapping.figures.anonymous != 0)
        return Kind::kFilePrivate;
    return Kind::kFile;
}

Kind kind_of(const MeasuredMapping &mapping, const MeasuredMapping *before,
             const MeasuredMapping *next) {
    if (mapping.no_memory())
        return Kind::kSpecial;
    if (mapping.file())
        return kind_of_file(mapping);
    if (mapping.shared() || mapping.name.starts_with("[anon_shmem:"))
        return Kind::kShmem;
    if (mapping.name == "[heap]")
        return Kind::kHeap;
    if (mapping.name.starts_with("[stack"))
        return Kind::kStack;
    if (mapping.name.starts_with("anon_inode:") || mapping.name.starts_with("/"))
        return Kind::kSpecial;
    if (!is_anonymous(mapping))
        return Kind::kAnon;
    if (is_arena(mapping, next))
        return Kind::kArena;
    if (is_thread_stack(mapping, before))
        return Kind::kStack;
    return mapping.size() >= kWeightsSize && mapping.accessible() ? Kind::kWeights : Kind::kAnon;
}

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

// Folders that hold one group for each container, named by its id.
constexpr std::array<Prefix, 4> kParents = {
    {{"docker", "docker"}, {"lxc", "lxc"}, {"libpod_parent", "podman"}, {"ecs", "ecs"}}};

// One step of a cgroup's path below `parent`.
Container container_step(std::string_view step, std::string_view parent) {
    std::string_view name = step;
    if (name.ends_with(".scope")) {
        name.remove_suffix(6);
        for (const auto &[prefix, runtime] : kScopes)
            if (name.starts_with(prefix) && name.size() > prefix.size() &&
                !name.starts_with("libpod-conmon-"))
                return {std::string(runtime), unescaped_unit(name.substr(prefix.size()))};
        return {};
    }
    if (name.starts_with("lxc.payload."))
        return {"lxc", std::string(name.substr(12))};
    if (name.starts_with("libpod-") && is_hex(name.substr(7)))
        return {"podman", std::string(name.substr(7))};
    // containerd's cgroups when kubelet uses systemd and it does not.
    if (const std::size_t at = name.find(":cri-containerd:"); at != std::string_view::npos)
        return {"containerd", std::string(name.substr(at + 16))};
    for (const auto &[folder, runtime] : kParents)
        if (parent == folder && name != "init.scope")
            if (runtime == "lxc" || is_hex(name))
                return {std::string(runtime), std::string(name)};
    // Ids of Docker's kind, wherever they are: Kubernetes with cgroupfs, ctr.
    if (name.size() == 64 && is_hex(name))
        return {"container", std::string(name)};
    return {};
}

} // namespace

std::vector<Kind> classify(const std::vector<MeasuredMapping> &mappings) {
    std::vector<Kind> kinds;
    kinds.reserve(mappings.size());
    for (std::size_t i = 0; i < mappings.size(); ++i)
        kinds.push_back(kind_of(mappings[i], i == 0 ? nullptr : &mappings[i - 1],
                                i + 1 == mappings.size() ? nullptr : &mappings[i + 1]));
    return kinds;
}

Container container_of(std::string_view cgroup, const std::map<std::string, std::string> &names) {
    Container found;
    Container unit;
    std::string_view parent;
    std::string_view rest = cgroup;
    while (!rest.empty()) {
        const std::size_t end = std::min(rest.find('/'), rest.size());
        const std::string_view step = rest.substr(0, end);
        rest.remove_prefix(std::min(end + 1, rest.size()));
        if (step.empty())
            continue;
        // Containers inside containers: the innermost counts.
        if (Container container = container_step(step, parent); !container.runtime.empty())
            found = std::move(container);
        else if (const auto known = names.find(std::string(step)); known != names.end())
            found = {known->second, known->first};
        else if (step.ends_with(".scope") || step.ends_with(".service"))
            unit = {"systemd", unescaped_unit(step)};
        parent = step;
    }
    return found.runtime.empty() ? unit : found;
}

} // namespace upm::tool::pss
