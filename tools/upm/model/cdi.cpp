// SPDX-License-Identifier: MIT
#include "tools/upm/model/cdi.hpp"

#include "tools/common/text.hpp"

#include <algorithm>

namespace upm::tool::cli {

namespace {

// Not the socket itself: a broker that starts again makes another one.
constexpr const char *kSocketFolder = "/run/upm";
constexpr const char *kKind = "upm.dev/share";
constexpr std::string_view kDomain = "UPM_DOMAIN=";
constexpr std::string_view kPreload = "LD_PRELOAD=";
constexpr std::size_t kKeyDigits = 32;
constexpr std::string_view kFilePrefix = "upm.dev-share-";
constexpr std::string_view kFileSuffix = ".json";

bool is_alphanumeric(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

Json bind_mount(const std::string &from, const std::string &to) {
    return {
        {"hostPath", from}, {"containerPath", to}, {"options", {"bind", "ro", "nosuid", "nodev"}}};
}

} // namespace

std::string cdi_file_name(std::string_view device) {
    return std::string(kFilePrefix).append(device).append(kFileSuffix);
}

std::optional<std::string> cdi_device_of(std::string_view file_name) {
    if (!file_name.starts_with(kFilePrefix) || !file_name.ends_with(kFileSuffix))
        return std::nullopt;
    file_name.remove_prefix(kFilePrefix.size());
    return std::string(file_name.substr(0, file_name.size() - kFileSuffix.size()));
}

bool is_cdi_name(std::string_view name) {
    constexpr std::size_t kLongest = 63;
    if (name.empty() || name.size() > kLongest || !is_alphanumeric(name.front()) ||
        !is_alphanumeric(name.back()))
        return false;
    return std::ranges::all_of(name, [](char c) {
        return is_alphanumeric(c) || std::string_view("_-.:").find(c) != std::string_view::npos;
    });
}

bool is_preload_list(std::string_view list) {
    const std::vector<std::string> files = split(list, ':');
    return !files.empty() && std::ranges::all_of(files, [](std::string_view file) {
        return file.starts_with('/') && std::ranges::all_of(file, [](char c) {
                   return is_alphanumeric(c) ||
                          std::string_view("/_-.+,@=").find(c) != std::string_view::npos;
               });
    });
}

Json cdi_specification(const CdiDevice &device) {
    const std::string more = device.preload.empty() ? "" : ":" + device.preload;
    Json edits = {{"env", {std::string(kDomain) + device.key}}};
    if (device.with_module)
        edits["deviceNodes"] = Json::array({{{"path", "/dev/upm"}, {"permissions", "rw"}}});
    Json mounts = Json::array(
        {bind_mount(device.hook, kHookInside), bind_mount(kSocketFolder, kSocketFolder)});
    if (!device.launcher.empty())
        mounts.push_back(bind_mount(device.launcher, kLauncherInside));
    return {{"cdiVersion", "0.5.0"},
            {"kind", kKind},
            {"devices", Json::array({{{"name", device.name}, {"containerEdits", edits}}})},
            {"containerEdits",
             {{"env", {std::string(kPreload) + kHookInside + more}}, {"mounts", mounts}}}};
}

std::vector<std::string> devices_in_specification(std::string_view text) {
    const Json json = Json::parse(text, nullptr, false);
    std::vector<std::string> names;
    try {
        if (json.at("kind") != kKind)
            return {};
        for (const Json &device : json.at("devices"))
            names.push_back(device.at("name").get<std::string>());
    } catch (const Json::exception &) {
        return {};
    }
    return names;
}

std::optional<std::string> key_in_specification(std::string_view text) {
    const Json json = Json::parse(text, nullptr, false);
    try {
        for (const Json &entry : json.at("devices").at(0).at("containerEdits").at("env")) {
            const std::string value = entry.get<std::string>();
            if (value.starts_with(kDomain) && value.size() == kDomain.size() + kKeyDigits)
                return value.substr(kDomain.size());
        }
    } catch (const Json::exception &) {
        return std::nullopt;
    }
    return std::nullopt;
}

std::string options_of_specification(std::string_view text) {
    const Json json = Json::parse(text, nullptr, false);
    const std::string hook = std::string(kPreload) + kHookInside + ":";
    std::string options;
    try {
        if (json.at("devices").at(0).at("containerEdits").contains("deviceNodes"))
            options += " --module";
        for (const Json &entry : json.at("containerEdits").at("env")) {
            const std::string value = entry.get<std::string>();
            if (value.starts_with(hook) && is_preload_list(value.substr(hook.size())))
                options += " --preload " + value.substr(hook.size());
        }
    } catch (const Json::exception &) {
        return "";
    }
    return options;
}

std::vector<std::string> paths_in_specification(std::string_view text) {
    const Json json = Json::parse(text, nullptr, false);
    std::vector<std::string> paths;
    try {
        for (const Json &mount : json.at("containerEdits").at("mounts"))
            paths.push_back(mount.at("hostPath").get<std::string>());
    } catch (const Json::exception &) {
        return {};
    }
    return paths;
}

} // namespace upm::tool::cli
