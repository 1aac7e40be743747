// SPDX-License-Identifier: MIT
#include "tools/common/maps.hpp"

#include "tools/common/text.hpp"

#include <algorithm>
#include <array>

namespace upm::tool {

namespace {

// "08:01" as one number.
std::optional<std::uint64_t> device_number(std::string_view text) {
    const std::size_t colon = text.find(':');
    if (colon == std::string_view::npos)
        return std::nullopt;
    const auto major = parse_integer<std::uint32_t>(text.substr(0, colon), 16);
    const auto minor = parse_integer<std::uint32_t>(text.substr(colon + 1), 16);
    if (!major || !minor)
        return std::nullopt;
    return std::uint64_t{*major} << 32U | *minor;
}

} // namespace

bool Mapping::special() const {
    constexpr std::array<std::string_view, 4> kNames = {"[vsyscall]", "[vectors]", "[sigpage]",
                                                        "[uprobes]"};
    // [vvar_vclock] and [vdso32] are of these kinds, too.
    return name.starts_with("[vdso") || name.starts_with("[vvar") ||
           std::find(kNames.begin(), kNames.end(), name) != kNames.end();
}

// "7f0a00000000-7f0a00021000 rw-p 00001000 fe:00 1234      /some path (deleted)"
std::optional<Mapping> parse_mapping(std::string_view line) {
    Mapping mapping;
    const std::string_view range = take_word(line);
    const std::size_t dash = range.find('-');
    if (dash == std::string_view::npos)
        return std::nullopt;
    const auto start = parse_integer<std::uint64_t>(range.substr(0, dash), 16);
    const auto end = parse_integer<std::uint64_t>(range.substr(dash + 1), 16);
    const std::string_view permissions = take_word(line);
    const auto offset = parse_integer<std::uint64_t>(take_word(line), 16);
    const auto device = device_number(take_word(line));
    const auto inode = parse_integer<std::uint64_t>(take_word(line));
    if (!start || !end || *end <= *start || permissions.size() != 4 || !offset || !device || !inode)
        return std::nullopt;
    mapping.start = *start;
    mapping.end = *end;
    permissions.copy(mapping.permissions, 4);
    mapping.offset = *offset;
    mapping.device = *device;
    mapping.inode = *inode;
    // Blanks fill up to a column; a name may begin with anything else.
    line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
    mapping.name = line;
    return mapping;
}

} // namespace upm::tool
