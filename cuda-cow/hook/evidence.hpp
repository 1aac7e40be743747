// SPDX-License-Identifier: MIT
//
// What can be known of a kernel's pointer parameters before it runs: from its C++
// name, and from its PTX.
#ifndef UPM_CUDA_HOOK_EVIDENCE_HPP
#define UPM_CUDA_HOOK_EVIDENCE_HPP

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace upm::cuda::hook {

enum class Use : std::uint8_t {
    kUnproven,
    kRead,    // nothing is written through it
    kWritten, // something may be
};

// One entry for each parameter of a mangled name: kRead for `const T *` and for what
// is no pointer, kUnproven for `T *` and for structures. Empty if it is no C++ name.
std::vector<Use> uses_from_name(const char *mangled);

// Kernels of a PTX module, by name. A parameter is kWritten if an address that is
// computed from it is stored to, and kRead if none is and the target of every store
// is known; with a call, or a store through a pointer that was loaded from memory,
// the rest stays kUnproven.
std::map<std::string, std::vector<Use>> uses_from_ptx(std::string_view ptx);

// What is known of two kernels that cannot be told apart.
std::vector<Use> common(const std::vector<Use> &one, const std::vector<Use> &other);

} // namespace upm::cuda::hook

#endif // UPM_CUDA_HOOK_EVIDENCE_HPP
