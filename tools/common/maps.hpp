// SPDX-License-Identifier: MIT
//
// /proc/PID/maps. The parser takes text that others control: names hold any bytes.
#ifndef UPM_TOOLS_COMMON_MAPS_HPP
#define UPM_TOOLS_COMMON_MAPS_HPP

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace upm::tool {

// One line.
struct Mapping {
    std::uint64_t start = 0;
    std::uint64_t end = 0;
    char permissions[5] = "----"; // "rw-p"
    std::uint64_t offset = 0;
    std::uint64_t device = 0; // major << 32 | minor
    std::uint64_t inode = 0;
    // As the kernel prints it: any bytes, a newline as the four characters \012,
    // " (deleted)" behind the name of an unlinked file.
    std::string name;

    [[nodiscard]] std::uint64_t size() const { return end - start; }
    [[nodiscard]] bool shared() const { return permissions[3] == 's'; }
    [[nodiscard]] bool executable() const { return permissions[2] == 'x'; }
    [[nodiscard]] bool writable() const { return permissions[1] == 'w'; }
    [[nodiscard]] bool accessible() const { return std::string_view(permissions, 3) != "---"; }
    [[nodiscard]] bool file() const { return inode != 0; }
    // By its name alone: a living file may be called so, too.
    [[nodiscard]] bool deleted() const { return file() && name.ends_with(" (deleted)"); }
    // Returns true for the kernel's own, [vdso] and its like; the heap and stacks have
    // names in brackets as well.
    [[nodiscard]] bool special() const;
};

// Nothing if the line is no mapping.
std::optional<Mapping> parse_mapping(std::string_view line);

} // namespace upm::tool

#endif // UPM_TOOLS_COMMON_MAPS_HPP
