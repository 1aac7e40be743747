// SPDX-License-Identifier: MIT
#ifndef UPM_TOOLS_DEVICE_PLUGIN_LOG_HPP
#define UPM_TOOLS_DEVICE_PLUGIN_LOG_HPP

#include "tools/common/text.hpp"

#include <cstdio>
#include <fmt/format.h>
#include <string_view>

namespace upm::plugin {

// One line on standard error, with nothing in it that steers a terminal.
inline void log(std::string_view text) {
    const std::string line = fmt::format("upm-device-plugin: {}\n", tool::printable(text));
    (void)std::fwrite(line.data(), 1, line.size(), stderr);
}

} // namespace upm::plugin

#endif // UPM_TOOLS_DEVICE_PLUGIN_LOG_HPP
