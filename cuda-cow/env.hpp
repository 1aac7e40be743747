// SPDX-License-Identifier: MIT
//
// The environment variables of cuda-cow, all in this one table (those of libupm
// are in libupm/base/env.hpp; UPM_DOMAIN there holds here too).
#ifndef UPM_CUDA_ENV_HPP
#define UPM_CUDA_ENV_HPP

#include <string>

// X(id, name, default, meaning)
#define UPM_CUDA_ENV_TABLE(X)                                                                      \
    X(kDriver, "UPM_CUDA_DRIVER", "libcuda.so.1", "library to load as the CUDA driver")            \
    X(kSocket, "UPM_CUDA_SOCKET", "", "socket of upm-cudad (default: $XDG_RUNTIME_DIR or /run)")   \
    X(kUnproven, "UPM_CUDA_UNPROVEN", "read",                                                      \
      "what a kernel does through a pointer that nothing is known about: read or write")           \
    X(kWrites, "UPM_CUDA_WRITES", "",                                                              \
      "file with lines 'FUNCTION INDEX...': pointer parameters that are written")                  \
    X(kLearn, "UPM_CUDA_LEARN", "0",                                                               \
      "learn what a function writes from its first N launches before an advise")

namespace upm::cuda::env {

struct Variable {
    const char *name;
    const char *fallback;
    const char *meaning;
};

#define UPM_CUDA_ENV_DEFINE(id, name, fallback, meaning)                                           \
    inline constexpr Variable id{name, fallback, meaning};
UPM_CUDA_ENV_TABLE(UPM_CUDA_ENV_DEFINE)
#undef UPM_CUDA_ENV_DEFINE

// The value, or the default when it is unset, empty, or when the program runs with
// more rights than its caller.
const char *text(const Variable &variable) noexcept;

// Where upm-cudad listens.
std::string socket_path();

} // namespace upm::cuda::env

#endif // UPM_CUDA_ENV_HPP
