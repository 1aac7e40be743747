// SPDX-License-Identifier: MIT
#include "tools/upm/read/cdi_folder.hpp"

#include "tools/common/errors.hpp"
#include "tools/common/files.hpp"
#include "tools/upm/model/cdi.hpp"

#include <algorithm>
#include <fmt/format.h>
#include <unistd.h>
#include <utility>

namespace upm::tool::cli {

namespace {

std::optional<std::string> readable_text(const std::string &path) {
    if (::access(path.c_str(), R_OK) != 0)
        return std::nullopt;
    try {
        return read_file(path);
    } catch (const Failure &) {
        return std::nullopt; // it has gone
    }
}

// What engines read: YAML as well, of which JSON is a part. They look into no folder below.
bool is_specification(const Root::Entry &entry) {
    return !entry.directory && (entry.name.ends_with(".json") || entry.name.ends_with(".yaml"));
}

} // namespace

std::vector<CdiFile> read_cdi_folder(const Root &root, std::string_view folder) {
    std::vector<CdiFile> files;
    for (const Root::Entry &entry : root.list(folder)) {
        if (!is_specification(entry))
            continue;
        CdiFile file{.path = fmt::format("{}/{}", folder, entry.name),
                     .domain = cdi_device_of(entry.name),
                     .mode = entry.mode,
                     .text = {},
                     .devices = {}};
        file.text = readable_text(root.path(file.path));
        if (file.text)
            file.devices = devices_in_specification(*file.text);
        if (file.domain || !file.devices.empty())
            files.push_back(std::move(file));
    }
    return files;
}

std::optional<CdiConflict> find_cdi_conflict(const std::vector<CdiFile> &files) {
    std::vector<std::pair<std::string, const CdiFile *>> seen;
    for (const CdiFile &file : files) {
        for (const std::string &device : file.devices) {
            const auto other = std::ranges::find(seen, device, &decltype(seen)::value_type::first);
            if (other == seen.end()) {
                seen.emplace_back(device, &file);
                continue;
            }
            const CdiFile &first = *other->second;
            const bool copied = !file.is_of(device);
            return CdiConflict{.device = device,
                               .file = copied ? first.path : file.path,
                               .copy = copied ? file.path : first.path};
        }
    }
    return std::nullopt;
}

} // namespace upm::tool::cli
