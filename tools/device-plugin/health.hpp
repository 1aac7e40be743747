// SPDX-License-Identifier: MIT
//
// Says if a container that is started now could share, and would.
#ifndef UPM_TOOLS_DEVICE_PLUGIN_HEALTH_HPP
#define UPM_TOOLS_DEVICE_PLUGIN_HEALTH_HPP

#include "tools/device-plugin/keys.hpp"
#include "tools/device-plugin/options.hpp"

#include <string>

namespace upm::plugin {

// Empty if all is well, else what is not.
std::string what_ails(const Options &options, const Keys &keys);

// Labels of the node, one a line. Throws SystemError if nobody can say what memory is free.
std::string labels_of(const Options &options, bool healthy);

} // namespace upm::plugin

#endif // UPM_TOOLS_DEVICE_PLUGIN_HEALTH_HPP
