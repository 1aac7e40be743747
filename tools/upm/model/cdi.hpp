// SPDX-License-Identifier: MIT
//
// What a container needs to share memory, as a device of the Container Device Interface
// (github.com/cncf-tags/container-device-interface, SPEC.md, version 0.5.0): podman,
// containerd, CRI-O and Docker put it into a container that asks for upm.dev/share=NAME.
#ifndef UPM_TOOLS_UPM_MODEL_CDI_HPP
#define UPM_TOOLS_UPM_MODEL_CDI_HPP

#include "tools/common/json.hpp"
#include "tools/common/key.hpp"

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace upm::tool::cli {

struct CdiDevice {
    std::string name;         // of the device and of the domain that its containers share
    std::string key;          // 32 hex digits: who knows it is a member
    std::string hook;         // libupm-preload.so of this machine
    std::string launcher;     // upm-layout of this machine, for upm-runc; empty: there is none
    bool with_module = false; // pass /dev/upm in as well
    std::string preload;      // what else its programs preload, as in LD_PRELOAD; may be empty
};

// Where engines look for specifications.
inline constexpr const char *kCdiFolder = "/etc/cdi";
inline constexpr const char *kDynamicCdiFolder = "/var/run/cdi"; // first of all

// The name of the specification's file for that device, and back; nothing: it is another's.
std::string cdi_file_name(std::string_view device);
std::optional<std::string> cdi_device_of(std::string_view file_name);

// Returns true if a device may be called so: letters, digits, and _ - . : between them.
bool is_cdi_name(std::string_view name);

// A whole specification, with this one device.
Json cdi_specification(const CdiDevice &device);

// The devices of upm.dev/share that a specification defines; none: it is another's.
std::vector<std::string> devices_in_specification(std::string_view text);

// The key in a specification made by cdi_specification; nothing in any other text.
std::optional<std::string> key_in_specification(std::string_view text);

// The options of `upm cdi generate` that made a specification beside its key, each after a
// blank, for a shell.
std::string options_of_specification(std::string_view text);

// Returns true if LD_PRELOAD may name these files: paths between colons, of characters that
// neither a dynamic linker nor a shell takes for others.
bool is_preload_list(std::string_view list);

// What of this machine it mounts into containers; nothing of any other text.
std::vector<std::string> paths_in_specification(std::string_view text);

} // namespace upm::tool::cli

#endif // UPM_TOOLS_UPM_MODEL_CDI_HPP
