// SPDX-License-Identifier: MIT
#include "tools/device-plugin/devices.hpp"

#include "tools/common/files.hpp"
#include "tools/common/json.hpp"
#include "tools/common/key.hpp"
#include "tools/common/text.hpp"

#include <cstdint>
#include <fmt/format.h>

namespace upm::plugin {

namespace {

using tool::Json;

constexpr std::string_view kPrefix = "share-";
constexpr const char *kDevice = "/dev/upm";
constexpr const char *kKeyInside = "/opt/upm/domain";
// The folder of the socket, not the socket: a broker that starts again makes another one.
constexpr const char *kSocketFolderInside = "/run/upm";
constexpr const char *kCdiKind = "upm.dev/pod";

std::string folder_of(const std::string &path) {
    return path.substr(0, path.rfind('/'));
}

void add_mount(v1beta1::ContainerAllocateResponse &edits, const std::string &from,
               const char *inside) {
    v1beta1::Mount &mount = *edits.add_mounts();
    mount.set_host_path(from);
    mount.set_container_path(inside);
    mount.set_read_only(true);
}

Json bind_mount(const std::string &from, const char *inside) {
    return {{"hostPath", from},
            {"containerPath", inside},
            {"options", {"bind", "ro", "nosuid", "nodev"}}};
}

} // namespace

std::string device_name(std::uint32_t number) {
    return fmt::format("{}{}", kPrefix, number);
}

bool is_device(std::string_view name) {
    if (!name.starts_with(kPrefix))
        return false;
    const auto number = tool::parse_integer<std::uint32_t>(name.substr(kPrefix.size()));
    return number && device_name(*number) == name;
}

v1beta1::ListAndWatchResponse list_of(std::uint32_t count, bool healthy) {
    v1beta1::ListAndWatchResponse list;
    for (std::uint32_t i = 0; i < count; ++i) {
        v1beta1::Device &device = *list.add_devices();
        device.set_id(device_name(i));
        device.set_health(healthy ? "Healthy" : "Unhealthy");
    }
    return list;
}

v1beta1::ContainerAllocateResponse edits_for(const Options &options, const Keys &keys,
                                             const std::string &device, bool with_cdi) {
    v1beta1::ContainerAllocateResponse edits;
    (*edits.mutable_envs())["LD_PRELOAD"] = tool::kHookInside;
    (*edits.mutable_envs())["UPM_DOMAIN"] = kKeyInside;
    add_mount(edits, options.hook, tool::kHookInside);
    add_mount(edits, folder_of(options.broker), kSocketFolderInside);
    add_mount(edits, keys.file(device), kKeyInside);
    if (!options.layout.empty())
        add_mount(edits, options.layout, tool::kLauncherInside);
    if (options.module) {
        v1beta1::DeviceSpec &node = *edits.add_devices();
        node.set_host_path(kDevice);
        node.set_container_path(kDevice);
        node.set_permissions("rw");
    }
    if (with_cdi)
        edits.add_cdi_devices()->set_name(fmt::format("{}={}", kCdiKind, device));
    return edits;
}

// Without the environment, which the kubelet brings: a runtime that takes it from here would
// replace what the pod itself says.
void write_cdi(const Options &options, const Keys &keys) {
    Json devices = Json::array();
    for (std::uint32_t i = 0; i < options.devices; ++i) {
        const std::string name = device_name(i);
        const Json key = Json::array({bind_mount(keys.file(name), kKeyInside)});
        devices.push_back({{"name", name}, {"containerEdits", {{"mounts", key}}}});
    }
    Json mounts = Json::array({bind_mount(options.hook, tool::kHookInside),
                               bind_mount(folder_of(options.broker), kSocketFolderInside)});
    if (!options.layout.empty())
        mounts.push_back(bind_mount(options.layout, tool::kLauncherInside));
    Json common = {{"mounts", mounts}};
    if (options.module)
        common["deviceNodes"] = Json::array({{{"path", kDevice}, {"permissions", "rw"}}});
    const Json whole = {{"cdiVersion", "0.5.0"},
                        {"kind", kCdiKind},
                        {"devices", devices},
                        {"containerEdits", common}};
    tool::write_atomically(options.cdi + "/upm.dev-pod.json", tool::dump(whole, -1) + "\n");
}

} // namespace upm::plugin
