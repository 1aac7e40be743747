// SPDX-License-Identifier: MIT
//
// UPM_PROFILE: which call stacks allocated the blocks whose pages merged. Stacks
// are taken by libunwind, which is loaded only when wanted.
#ifndef UPM_PRELOAD_STACKS_HPP
#define UPM_PRELOAD_STACKS_HPP

#include <cstddef>
#include <cstdint>

namespace upm::hook {

// False: libunwind cannot be loaded here.
bool start_profile() noexcept;

// The number of the caller's stack, and counts `bytes` as allocated there. 0 if
// there is no profile.
std::uint32_t capture_stack(std::size_t bytes) noexcept;

// That many bytes allocated there share their page with others now: merged with
// known content, or zero.
void profile_merged(std::uint32_t stack, std::uint64_t bytes) noexcept;
// ... and that many were the first of their content.
void profile_inserted(std::uint32_t stack, std::uint64_t bytes) noexcept;

// At exit: the stacks by merged bytes, symbolised, on that descriptor.
void print_profile(int fd) noexcept;

} // namespace upm::hook

#endif // UPM_PRELOAD_STACKS_HPP
