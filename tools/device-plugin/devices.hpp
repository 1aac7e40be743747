// SPDX-License-Identifier: MIT
//
// The devices that the plugin offers: slots, one for each container that can have the hook
// at one time. What a container gets with its slot.
#ifndef UPM_TOOLS_DEVICE_PLUGIN_DEVICES_HPP
#define UPM_TOOLS_DEVICE_PLUGIN_DEVICES_HPP

#include "tools/device-plugin/keys.hpp"
#include "tools/device-plugin/options.hpp"

#include <cstdint>
#include <string>
#include <string_view>

#include "device_plugin.pb.h"

namespace upm::plugin {

// "share-17"
std::string device_name(std::uint32_t number);
// Returns true for what device_name() gives: such a name is safe in a path.
bool is_device(std::string_view name);

// All of them, in a state that the kubelet knows.
v1beta1::ListAndWatchResponse list_of(std::uint32_t count, bool healthy);

// What a container gets that has `device`: mounts and environment, which every kubelet
// takes, and the name of the same as a device of CDI if there is a specification.
v1beta1::ContainerAllocateResponse edits_for(const Options &options, const Keys &keys,
                                             const std::string &device, bool with_cdi);

// Writes the specification of CDI, for the kind upm.dev/pod. Throws Failure.
void write_cdi(const Options &options, const Keys &keys);

} // namespace upm::plugin

#endif // UPM_TOOLS_DEVICE_PLUGIN_DEVICES_HPP
