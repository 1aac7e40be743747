// SPDX-License-Identifier: MIT
#include "tools/common/memory.hpp"

#include "tools/common/text.hpp"

#include <string_view>
#include <unistd.h>

namespace upm::tool {

Memory read_memory(const Root &root) {
    constexpr std::uint64_t kKib = 1024;
    Memory memory;
    root.lines("/proc/meminfo", [&](std::string_view line) {
        const auto take = [&](std::string_view key, std::uint64_t &value) {
            if (!line.starts_with(key))
                return;
            line.remove_prefix(key.size());
            line = trimmed(line);
            value = kKib * parse_integer<std::uint64_t>(line.substr(0, line.find(' '))).value_or(0);
        };
        take("MemTotal:", memory.total);
        take("MemAvailable:", memory.available);
    });
    return memory;
}

std::uint64_t default_broker_limit() {
    constexpr std::uint64_t kShare = 8;
    return static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES)) / kShare *
           static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

bool is_short(const Memory &memory, unsigned percent) {
    constexpr std::uint64_t kWhole = 100;
    return memory.available < memory.total / kWhole * percent || memory.total == 0;
}

} // namespace upm::tool
