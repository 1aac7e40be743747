// SPDX-License-Identifier: MIT
//
// Keys of domains, as UPM_DOMAIN takes them, and where the hook and its launcher lie in
// containers.
#ifndef UPM_TOOLS_COMMON_KEY_HPP
#define UPM_TOOLS_COMMON_KEY_HPP

#include <string>
#include <string_view>

namespace upm::tool {

// Inside a container.
inline constexpr const char *kHookInside = "/opt/upm/libupm-preload.so";
inline constexpr const char *kLauncherInside = "/opt/upm/upm-layout"; // for upm-runc

// 32 hex digits that nobody can guess. Throws SystemError.
std::string fresh_key();
// Returns true for 32 hex digits.
bool is_key(std::string_view text);

} // namespace upm::tool

#endif // UPM_TOOLS_COMMON_KEY_HPP
