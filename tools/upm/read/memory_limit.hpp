// SPDX-License-Identifier: MIT
//
// The lowest limit on memory that the control groups of a process set.
#ifndef UPM_TOOLS_UPM_READ_MEMORY_LIMIT_HPP
#define UPM_TOOLS_UPM_READ_MEMORY_LIMIT_HPP

#include "tools/common/root.hpp"

#include <cstdint>
#include <string>
#include <sys/types.h>

namespace upm::tool::cli {

struct MemoryLimit {
    std::string file; // that sets it; empty: there is no limit to be seen
    std::uint64_t bytes = 0;
};

// Of control groups of version 1 or 2.
MemoryLimit memory_limit(const Root &root, pid_t pid);

} // namespace upm::tool::cli

#endif // UPM_TOOLS_UPM_READ_MEMORY_LIMIT_HPP
