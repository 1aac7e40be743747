// SPDX-License-Identifier: MIT
#include "tools/pss-report/read/container_names.hpp"

#include "tools/common/errors.hpp"
#include "tools/common/files.hpp"
#include "tools/common/json.hpp"

#include <fmt/format.h>
#include <tuple>
#include <vector>

namespace upm::tool::pss {

namespace {

// A discarded value for what is not there, or no JSON.
Json read_json(const Root &root, const std::string &path) {
    try {
        return Json::parse(read_file(root.path(path)), nullptr, false);
    } catch (const Failure &) {
        // NOLINTNEXTLINE(modernize-return-braced-init-list): that would be a list of one
        return Json(Json::value_t::discarded);
    }
}

std::string text_at(const Json &json, const char *key) {
    if (!json.is_object())
        return "";
    const auto found = json.find(key);
    return found != json.end() && found->is_string() ? found->get<std::string>() : "";
}

// A list of {"id": ..., "names": [...]}.
std::map<std::string, std::string> podman_names(const Root &root) {
    std::map<std::string, std::string> names;
    const Json list =
        read_json(root, "/var/lib/containers/storage/overlay-containers/containers.json");
    if (!list.is_array())
        return names;
    for (const Json &one : list)
        if (const auto found = one.find("names"); one.is_object() && found != one.end())
            if (found->is_array() && !found->empty() && found->front().is_string())
                names.emplace(text_at(one, "id"), found->front().get<std::string>());
    return names;
}

// /var/lib/nerdctl/HASH/names/NAMESPACE/NAME holds the id.
std::map<std::string, std::string> nerdctl_names(const Root &root) {
    const std::string base = "/var/lib/nerdctl";
    std::map<std::string, std::string> names;
    for (const std::string &hash : root.names(base)) {
        const std::string folder = fmt::format("{}/{}/names", base, hash);
        for (const std::string &space : root.names(folder))
            for (const std::string &name : root.names(fmt::format("{}/{}", folder, space)))
                if (const auto id = root.first_line(fmt::format("{}/{}/{}", folder, space, name)))
                    names.emplace(*id, name);
    }
    return names;
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
    : root_(std::move(root)), podman_(podman_names(root_)), nerdctl_(nerdctl_names(root_)),
      pods_(pod_names(root_)) {}

std::string ContainerNames::docker_name(const std::string &id) const {
    std::string name =
        text_at(read_json(root_, "/var/lib/docker/containers/" + id + "/config.v2.json"), "Name");
    return name.starts_with('/') ? name.substr(1) : name;
}

std::pair<std::string, std::string> ContainerNames::bundle_names(const std::string &id) const {
    struct Place {
        std::string file;
        const char *name;
        const char *space;
        const char *pod;
    };
    const std::string containerd = "/run/containerd/io.containerd.runtime.v2.task/k8s.io/";
    const Place places[] = {
        {containerd + id + "/config.json", "io.kubernetes.cri.container-name",
         "io.kubernetes.cri.sandbox-namespace", "io.kubernetes.cri.sandbox-name"},
        {"/run/containers/storage/overlay-containers/" + id + "/userdata/config.json",
         "io.kubernetes.container.name", "io.kubernetes.pod.namespace", "io.kubernetes.pod.name"},
    };
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

void ContainerNames::add(Container &container) {
    if (!is_id(container.id))
        return; // it has a name
    const auto [known, added] = known_.try_emplace(container.id);
    auto &[name, pod] = known->second;
    if (added) {
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
