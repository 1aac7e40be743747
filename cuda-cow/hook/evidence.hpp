// SPDX-License-Identifier: MIT
//
// What a kernel's C++ name says of its parameters. That is a promise of its author, no
// proof: a kernel may cast `const` away. Machine code, PTX and arguments that point to
// tables of pointers prove nothing here: unproven is unproven.
#ifndef UPM_CUDA_HOOK_EVIDENCE_HPP
#define UPM_CUDA_HOOK_EVIDENCE_HPP

#include <cstdint>
#include <vector>

namespace upm::cuda::hook {

enum class Use : std::uint8_t {
    kUnproven,
    kRead,    // promised, or learned
    kWritten, // declared, or seen
};

// One entry for each parameter of a mangled name: kRead for `const T *`, unless T is a
// pointer itself, and for numbers; kUnproven for the rest. Empty if it is no C++ name.
std::vector<Use> uses_from_name(const char *mangled);

} // namespace upm::cuda::hook

#endif // UPM_CUDA_HOOK_EVIDENCE_HPP
