// SPDX-License-Identifier: MIT
//
// Numbers of bytes, and times, as people read and write them.
#ifndef UPM_TOOLS_COMMON_SIZES_HPP
#define UPM_TOOLS_COMMON_SIZES_HPP

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace upm::tool {

// "4096", "64K", "2M", "1G" (powers of 1024).
std::optional<std::uint64_t> parse_bytes(std::string_view text);

enum class Unit : std::uint8_t { kAuto, kBytes, kKib, kMib, kGib, kPages };
// auto, B, K, M, G, pages. Throws UsageError.
Unit parse_unit(std::string_view text);
// For a column: "1.5M" (auto), else the plain number in that unit.
std::string format_bytes(std::uint64_t bytes, Unit unit, std::uint64_t page_size = 4096);
// With a sign: "+1.5M", "-3K", "0".
std::string format_change(std::int64_t bytes, Unit unit, std::uint64_t page_size = 4096);

// For a sentence: "1.5 GiB".
std::string human_bytes(std::uint64_t bytes);
// "1.23 s", "45.0 ms"
std::string human_seconds(double seconds);

} // namespace upm::tool

#endif // UPM_TOOLS_COMMON_SIZES_HPP
