// SPDX-License-Identifier: MIT
#include "cuda-cow/env.hpp"

#include <cstdlib>

namespace upm::cuda::env {

const char *text(const Variable &variable) noexcept {
    const char *const value = ::secure_getenv(variable.name);
    return value != nullptr && *value != '\0' ? value : variable.fallback;
}

std::string socket_path() {
    if (const char *const path = text(kSocket); *path != '\0')
        return path;
    const char *const runtime = ::secure_getenv("XDG_RUNTIME_DIR");
    const bool usable = runtime != nullptr && *runtime == '/';
    return std::string(usable ? runtime : "/run") + "/upm-cudad.sock";
}

} // namespace upm::cuda::env
