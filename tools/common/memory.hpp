// SPDX-License-Identifier: MIT
//
// How much of the machine's memory is left.
#ifndef UPM_TOOLS_COMMON_MEMORY_HPP
#define UPM_TOOLS_COMMON_MEMORY_HPP

#include "tools/common/root.hpp"

#include <cstdint>

namespace upm::tool {

struct Memory {
    std::uint64_t total = 0;     // bytes
    std::uint64_t available = 0; // bytes that programs can have without swapping
};

// Of the whole machine, also from within a container. Zeros for what /proc/meminfo does not
// say. Throws SystemError if it cannot be read.
Memory read_memory(const Root &root);

// Bytes of content that upmd keeps at most if nobody says otherwise: an eighth of all memory.
std::uint64_t default_broker_limit();

// Returns true if less than so many percent are available, or if nobody can say.
bool is_short(const Memory &memory, unsigned percent);

} // namespace upm::tool

#endif // UPM_TOOLS_COMMON_MEMORY_HPP
