// SPDX-License-Identifier: MIT
#include "tools/upm/text.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <fmt/format.h>
#include <iterator>

namespace upm::tool {

namespace {

constexpr std::string_view kBlanks = " \t\r\n";

// Length of the well-formed UTF-8 sequence that `text` starts with; 0: none.
// Table 3-7 of the Unicode standard, which rules out overlong forms and surrogates.
std::size_t utf8_length(std::string_view text) {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned first = byte(0);
    if (first < 0x80)
        return 1;
    std::size_t length = 0;
    unsigned low = 0x80;
    unsigned high = 0xbf;
    if (first >= 0xc2 && first <= 0xdf) {
        length = 2;
    } else if (first >= 0xe0 && first <= 0xef) {
        length = 3;
        low = first == 0xe0 ? 0xa0 : low;
        high = first == 0xed ? 0x9f : high;
    } else if (first >= 0xf0 && first <= 0xf4) {
        length = 4;
        low = first == 0xf0 ? 0x90 : low;
        high = first == 0xf4 ? 0x8f : high;
    }
    if (length == 0 || text.size() < length || byte(1) < low || byte(1) > high)
        return 0;
    for (std::size_t i = 2; i < length; ++i)
        if ((byte(i) & 0xc0U) != 0x80U)
            return 0;
    return length;
}

// C0, DEL, and C1 (U+0080..U+009F), which terminals obey as well.
bool is_control(std::string_view character) {
    const auto first = static_cast<unsigned char>(character[0]);
    return first < 0x20 || first == 0x7f ||
           (first == 0xc2 && static_cast<unsigned char>(character[1]) < 0xa0);
}

// Columns on a terminal, taking each character as one wide.
std::size_t width(std::string_view text) {
    return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) {
        return (static_cast<unsigned char>(c) & 0xc0U) != 0x80U;
    }));
}

} // namespace

std::string_view trimmed(std::string_view text) {
    const std::size_t start = text.find_first_not_of(kBlanks);
    if (start == std::string_view::npos)
        return {};
    return text.substr(start, text.find_last_not_of(kBlanks) - start + 1);
}

std::optional<unsigned long long> parse_unsigned(std::string_view text, int base) {
    unsigned long long value = 0;
    const char *const end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value, base);
    if (error != std::errc() || stop != end)
        return std::nullopt;
    return value;
}

std::optional<std::uint64_t> parse_bytes(std::string_view text) {
    constexpr std::string_view kUnits = "KMGT";
    unsigned shift = 0;
    if (!text.empty()) {
        const std::size_t unit = kUnits.find(text.back());
        if (unit != std::string_view::npos) {
            shift = 10 * (static_cast<unsigned>(unit) + 1);
            text.remove_suffix(1);
        }
    }
    const std::optional<unsigned long long> number = parse_unsigned(text, 10);
    if (!number || (*number << shift) >> shift != *number)
        return std::nullopt;
    return *number << shift;
}

std::string printable(std::string_view text) {
    std::string result;
    result.reserve(text.size());
    while (!text.empty()) {
        const std::size_t length = utf8_length(text);
        const std::size_t taken = std::max<std::size_t>(length, 1);
        const std::string_view character = text.substr(0, taken);
        if (length == 0 || is_control(character)) {
            for (const char c : character)
                fmt::format_to(std::back_inserter(result), "\\x{:02x}",
                               static_cast<unsigned char>(c));
        } else {
            result += character;
        }
        text.remove_prefix(taken);
    }
    return result;
}

std::string human_bytes(std::uint64_t bytes) {
    constexpr std::array kUnits = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    auto value = static_cast<double>(bytes);
    std::size_t unit = 0;
    // 1023.95 would be printed as 1024.0
    while (value >= 1023.95 && unit + 1 < kUnits.size()) {
        value /= 1024;
        ++unit;
    }
    return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::string human_seconds(double seconds) {
    if (seconds >= 1)
        return fmt::format("{:.2f} s", seconds);
    if (seconds >= 1e-3)
        return fmt::format("{:.1f} ms", seconds * 1e3);
    return fmt::format("{:.0f} us", seconds * 1e6);
}

std::string Table::text() const {
    std::vector<std::size_t> widths;
    for (std::size_t column = 0; column < columns_.size(); ++column) {
        std::size_t widest = width(columns_[column].title);
        for (const std::vector<std::string> &row : rows_)
            widest = std::max(widest, width(row[column]));
        widths.push_back(widest);
    }
    std::string result;
    const auto print = [&](const auto &cell_of) {
        std::string line;
        for (std::size_t column = 0; column < columns_.size(); ++column) {
            const std::string &cell = cell_of(column);
            const std::string padding(widths[column] - width(cell), ' ');
            const bool left = columns_[column].align == Align::kLeft;
            line += column == 0 ? "" : "  ";
            line += left ? cell + padding : padding + cell;
        }
        line.erase(line.find_last_not_of(' ') + 1);
        result += line + '\n';
    };
    print([&](std::size_t column) -> const std::string & { return columns_[column].title; });
    for (const std::vector<std::string> &row : rows_)
        print([&](std::size_t column) -> const std::string & { return row[column]; });
    return result;
}

} // namespace upm::tool
