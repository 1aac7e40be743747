// SPDX-License-Identifier: MIT
//
// Whether a container that is started now could share.
#ifndef UPM_TOOLS_DEVICE_PLUGIN_HEALTH_HPP
#define UPM_TOOLS_DEVICE_PLUGIN_HEALTH_HPP

#include "tools/device-plugin/keys.hpp"
#include "tools/device-plugin/options.hpp"

#include <string>

namespace upm::plugin {

// Empty if all is well, else what is not.
std::string what_ails(const Options &options, const Keys &keys);

} // namespace upm::plugin

#endif // UPM_TOOLS_DEVICE_PLUGIN_HEALTH_HPP
