// SPDX-License-Identifier: MIT
//
// Small matters of text.
#ifndef UPM_TOOLS_PSS_REPORT_TEXT_HPP
#define UPM_TOOLS_PSS_REPORT_TEXT_HPP

#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace upm::pss {

std::string_view trimmed(std::string_view text);

// All of `text` as a number; nothing if any of it is something else.
template <typename Number>
std::optional<Number> parse_integer(std::string_view text, int base = 10) {
    Number value = 0;
    const char *end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value, base);
    if (error != std::errc() || stop != end)
        return std::nullopt;
    return value;
}

std::optional<double> parse_real(std::string_view text);

// "4096", "64K", "2M", "1G" (powers of 1024).
std::optional<std::uint64_t> parse_bytes(std::string_view text);

std::vector<std::string> split(std::string_view text, char separator);

// For a terminal: control characters, and bytes that are not UTF-8, as \xNN. Names of
// processes and files are chosen by others, and must not steer a terminal.
std::string printable(std::string_view text);

// Columns of a terminal that `text` (printable UTF-8) takes.
std::size_t display_width(std::string_view text);
// Cut to `width` columns, the last of them "…" if something was cut off.
std::string shortened(std::string_view text, std::size_t width);

enum class Unit : std::uint8_t { kAuto, kBytes, kKib, kMib, kGib, kPages };
// auto, B, K, M, G, pages. Throws UsageError.
Unit parse_unit(std::string_view text);
// "1.5M" (auto), else the plain number in that unit.
std::string format_bytes(std::uint64_t bytes, Unit unit, std::uint64_t page_size = 4096);
// With a sign: "+1.5M", "-3K", "0".
std::string format_change(std::int64_t bytes, Unit unit, std::uint64_t page_size = 4096);

// The text with what is not UTF-8 replaced by U+FFFD.
std::string utf8(std::string_view text);

// For XML and HTML, in text and in attributes; what XML cannot hold becomes U+FFFD.
std::string xml_escaped(std::string_view text);

} // namespace upm::pss

#endif // UPM_TOOLS_PSS_REPORT_TEXT_HPP
