// SPDX-License-Identifier: MIT
//
// Keys of domains, as UPM_DOMAIN takes them, and how the hook and its launcher are called, and
// where they lie in containers.
#ifndef UPM_TOOLS_COMMON_KEY_HPP
#define UPM_TOOLS_COMMON_KEY_HPP

#include <string>
#include <string_view>

namespace upm::tool {

// Inside a container.
inline constexpr const char *kHookInside = "/opt/upm/libupm-preload.so";
inline constexpr const char *kLauncherInside = "/opt/upm/upm-layout"; // for upm-runc
// Everywhere.
inline constexpr std::string_view kHookName =
    std::string_view(kHookInside).substr(std::string_view(kHookInside).rfind('/') + 1);

// Returns true for the path of a hook, whatever folder it is in.
constexpr bool is_hook(std::string_view path) {
    return path.ends_with(kHookName) && path.substr(0, path.rfind(kHookName)).ends_with('/');
}

// 32 hex digits that nobody can guess. Throws SystemError.
std::string fresh_key();
// Returns true for 32 hex digits.
bool is_key(std::string_view text);

} // namespace upm::tool

#endif // UPM_TOOLS_COMMON_KEY_HPP
