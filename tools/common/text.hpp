// SPDX-License-Identifier: MIT
//
// Text that others chose, such as names of processes and files: it may hold any bytes.
#ifndef UPM_TOOLS_COMMON_TEXT_HPP
#define UPM_TOOLS_COMMON_TEXT_HPP

#include <charconv>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

namespace upm::tool {

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

std::vector<std::string> split(std::string_view text, char separator);

// Takes the next word off the front of `text`: what lies between blanks. Empty: there is none.
std::string_view take_word(std::string_view &text, std::string_view blanks = " ");

// Calls `line` for each line, without its newline.
template <typename Line>
void for_each_line(std::string_view text, Line &&line) {
    while (!text.empty()) {
        const std::size_t end = text.find('\n');
        line(text.substr(0, end));
        if (end == std::string_view::npos)
            return;
        text.remove_prefix(end + 1);
    }
}

// For a terminal: control characters, and bytes that are not UTF-8, as \xNN. Such
// names must not steer a terminal.
std::string printable(std::string_view text);

// Columns of a terminal that `text` (printable UTF-8) takes.
std::size_t display_width(std::string_view text);
// Cut to `width` columns, the last of them "…" if something was cut off.
std::string shortened(std::string_view text, std::size_t width);

// One word for a shell: as it is, or between quotes where it needs them.
std::string shell_word(std::string_view text);

// The text with what is not UTF-8 replaced by U+FFFD.
std::string utf8(std::string_view text);

// For XML and HTML, in text and in attributes; what XML cannot hold becomes U+FFFD.
std::string xml_escaped(std::string_view text);

// For a label of Prometheus: UTF-8, with the three escapes that its text format has.
std::string prometheus_label(std::string_view text);

} // namespace upm::tool

#endif // UPM_TOOLS_COMMON_TEXT_HPP
