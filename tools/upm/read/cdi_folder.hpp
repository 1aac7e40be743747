// SPDX-License-Identifier: MIT
//
// The specifications of upm.dev/share in a folder where engines look for them, whatever their
// files are called: engines go by what is in a file.
#ifndef UPM_TOOLS_UPM_READ_CDI_FOLDER_HPP
#define UPM_TOOLS_UPM_READ_CDI_FOLDER_HPP

#include "tools/common/root.hpp"

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace upm::tool::cli {

struct CdiFile {
    std::string path;
    // What `upm cdi generate --domain` calls such a file by; nothing: it would not.
    std::optional<std::string> domain;
    unsigned mode = 0;
    std::optional<std::string> text;  // nothing: this user may not read it
    std::vector<std::string> devices; // that it defines

    // Returns true if it is that of the device, not a copy.
    [[nodiscard]] bool is_of(const std::string &device) const { return domain == device; }
};

// Those that are called as `upm cdi` calls them, and those that define a device of ours; sorted
// by path.
std::vector<CdiFile> read_cdi_folder(const Root &root, std::string_view folder);

// Two files that define one device.
struct CdiConflict {
    std::string device;
    std::string file;
    std::string copy; // the one to be removed

    bool operator==(const CdiConflict &) const = default;
};

// The first one among these files; nothing: there is none.
std::optional<CdiConflict> find_cdi_conflict(const std::vector<CdiFile> &files);

} // namespace upm::tool::cli

#endif // UPM_TOOLS_UPM_READ_CDI_FOLDER_HPP
