// SPDX-License-Identifier: MIT
#include "tools/pss-report/read/container_names.hpp"

#include "tools/common/descriptor.hpp"
#include "tools/common/json.hpp"
#include "tools/common/text.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <tuple>
#include <unistd.h>

namespace upm::tool::pss {

namespace {

// Much more than any of them has.
constexpr std::size_t kLargest = std::size_t{64} << 20U;

// What a file holds; empty if it is none, or too large. Users write some of these files:
// a pipe without a writer must not stop the report.
std::string read_some(const std::string &path) {
    std::string text;
    const Descriptor file(
        ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK)); // NOLINT(*-vararg)
    struct stat info {};
    if (!file || ::fstat(file.get(), &info) != 0 || !S_ISREG(info.st_mode))
        return text;
    char block[1U << 16U];
    ssize_t got = 0;
    while (text.size() <= kLargest && (got = ::read(file.get(), block, sizeof(block))) > 0)
        text.append(block, static_cast<std::size_t>(got));
    return text.size() > kLargest ? std::string() : text;
}

// A discarded value for what is not there, or no JSON.
Json read_json(const Root &root, const std::string &path) {
    return Json::parse(read_some(root.path(path)), nullptr, false);
}

std::string text_at(const Json &json, const char *key) {
    if (!json.is_object())
        return "";
    const auto found = json.find(key);
    return found != json.end() && found->is_string() ? found->get<std::string>() : "";
}

using Names = std::map<std::string, std::string>;

// A list of {"id": ..., "names": [...]}.
void add_podman_list(const Json &list, Names &names) {
    if (!list.is_array())
        return;
    for (const Json &one : list)
        if (const auto found = one.find("names"); one.is_object() && found != one.end())
            if (found->is_array() && !found->empty() && found->front().is_string())
                names.emplace(text_at(one, "id"), found->front().get<std::string>());
}

// Of each storage driver, those that stay and those of `podman run --rm`.
void add_podman(const Root &root, const std::string &storage, Names &names) {
    for (const std::string &folder : root.names(storage))
        if (folder.ends_with("-containers"))
            for (const char *list : {"containers.json", "volatile-containers.json"})
                add_podman_list(read_json(root, fmt::format("{}/{}/{}", storage, folder, list)),
                                names);
}

// BASE/HASH/names/NAMESPACE/NAME holds the id.
void add_nerdctl(const Root &root, const std::string &base, Names &names) {
    for (const std::string &hash : root.names(base)) {
        const std::string folder = fmt::format("{}/{}/names", base, hash);
        for (const std::string &space : root.names(folder))
            for (const std::string &name : root.names(fmt::format("{}/{}", folder, space))) {
                const std::string path = fmt::format("{}/{}/{}", folder, space, name);
                names.emplace(trimmed(read_some(root.path(path))), name);
            }
    }
}

// The home of a user; empty if it has none.
std::string home_of(const Root &root, std::string_view uid) {
    std::string home;
    const std::string users = read_some(root.path("/etc/passwd"));
    for_each_line(users, [&](std::string_view line) {
        const std::vector<std::string> fields = split(line, ':');
        if (home.empty() && fields.size() >= 6 && fields[2] == uid && fields[5].starts_with('/'))
            home = fields[5];
    });
    return home;
}

// kubelet keeps logs in /var/log/pods/NAMESPACE_NAME_UID.
std::map<std::string, std::string> pod_names(const Root &root) {
    std::map<std::string, std::string> names;
    for (const std::string &folder : root.names("/var/log/pods"))
        if (const std::vector<std::string> parts = split(folder, '_'); parts.size() == 3)
            names.emplace(parts[2], parts[0] + "/" + parts[1]);
    return names;
}

// Ids become part of a path.
bool is_id(const std::string &id) {
    return !id.empty() && id.find_first_not_of("0123456789abcdef") == std::string::npos;
}

} // namespace

ContainerNames::ContainerNames(Root root)
    : root_(std::move(root)), pods_(pod_names(root_)),
      docker_({"/var/lib/docker", "/var/snap/docker/common/var-lib-docker"}) {
    add_podman(root_, "/var/lib/containers/storage", podman_);
    add_nerdctl(root_, "/var/lib/nerdctl", nerdctl_);
}

// What a user's own runtimes keep in the home. It is in use, since a container of the user
// runs; others may be on servers that do not answer.
void ContainerNames::add_home(std::string_view cgroup) {
    constexpr std::string_view kSlice = "/user-";
    const std::size_t at = cgroup.find(kSlice);
    if (at == std::string_view::npos)
        return;
    const std::string_view rest = cgroup.substr(at + kSlice.size());
    const std::string uid(rest.substr(0, rest.find(".slice")));
    if (!homes_.insert(uid).second)
        return;
    const std::string home = home_of(root_, uid);
    if (home.empty())
        return;
    const std::string share = home + "/.local/share/";
    add_podman(root_, share + "containers/storage", podman_);
    add_nerdctl(root_, share + "nerdctl", nerdctl_);
    docker_.push_back(share + "docker");
}

std::string ContainerNames::docker_name(const std::string &id) const {
    for (const std::string &folder : docker_) {
        const std::string path = fmt::format("{}/containers/{}/config.v2.json", folder, id);
        if (const std::string name = text_at(read_json(root_, path), "Name"); !name.empty())
            return name.starts_with('/') ? name.substr(1) : name;
    }
    return "";
}

std::pair<std::string, std::string> ContainerNames::bundle_names(const std::string &id) const {
    struct Place {
        std::string file;
        const char *name;
        const char *space;
        const char *pod;
    };
    std::vector<Place> places;
    // containerd's own, that of k3s and RKE2, of k0s, of MicroK8s.
    for (const char *base : {"/run", "/run/k3s", "/run/k0s", "/var/snap/microk8s/common/run"})
        places.push_back(
            {fmt::format("{}/containerd/io.containerd.runtime.v2.task/k8s.io/{}/config.json", base,
                         id),
             "io.kubernetes.cri.container-name", "io.kubernetes.cri.sandbox-namespace",
             "io.kubernetes.cri.sandbox-name"});
    places.push_back(
        {fmt::format("/run/containers/storage/overlay-containers/{}/userdata/config.json", id),
         "io.kubernetes.container.name", "io.kubernetes.pod.namespace", "io.kubernetes.pod.name"});
    for (const Place &place : places) {
        const Json bundle = read_json(root_, place.file);
        if (!bundle.is_object() || !bundle.contains("annotations"))
            continue;
        const Json &notes = bundle["annotations"];
        const std::string pod = text_at(notes, place.pod);
        return {text_at(notes, place.name),
                pod.empty() ? "" : text_at(notes, place.space) + "/" + pod};
    }
    return {};
}

void ContainerNames::add(Container &container, std::string_view cgroup) {
    if (!is_id(container.id))
        return; // it has a name
    const auto [known, added] = known_.try_emplace(container.id);
    auto &[name, pod] = known->second;
    if (added) {
        add_home(cgroup);
        std::tie(name, pod) = bundle_names(container.id);
        if (name.empty())
            name = docker_name(container.id);
        for (const auto *const names : {&podman_, &nerdctl_})
            if (const auto found = names->find(container.id); name.empty() && found != names->end())
                name = found->second;
        if (const auto found = pods_.find(container.pod); pod.empty() && found != pods_.end())
            pod = found->second;
    }
    container.name = name;
    container.pod_name = pod;
}

} // namespace upm::tool::pss
