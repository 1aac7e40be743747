// SPDX-License-Identifier: MIT
#include "tools/pss-report/text.hpp"

#include "tools/pss-report/errors.hpp"

#include <array>
#include <fmt/format.h>

namespace upm::pss {

namespace {

// Length of the UTF-8 character at the start of `text`; 0 if there is none.
std::size_t utf8_length(std::string_view text) {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned first = byte(0);
    std::size_t length = 0;
    std::uint32_t value = 0;
    if (first < 0x80)
        return 1;
    if (first >= 0xc2 && first <= 0xdf)
        length = 2, value = first & 0x1fU;
    else if (first >= 0xe0 && first <= 0xef)
        length = 3, value = first & 0x0fU;
    else if (first >= 0xf0 && first <= 0xf4)
        length = 4, value = first & 0x07U;
    if (length == 0 || text.size() < length)
        return 0;
    for (std::size_t i = 1; i < length; ++i) {
        if ((byte(i) & 0xc0U) != 0x80U)
            return 0;
        value = value << 6U | (byte(i) & 0x3fU);
    }
    const bool overlong = (length == 3 && value < 0x800) || (length == 4 && value < 0x10000);
    const bool surrogate = value >= 0xd800 && value <= 0xdfff;
    return overlong || surrogate || value > 0x10ffff ? 0 : length;
}

bool control(std::string_view character) {
    const auto first = static_cast<unsigned char>(character[0]);
    if (character.size() == 1)
        return first < 0x20 || first == 0x7f;
    // U+0080 to U+009F steer terminals as well.
    return first == 0xc2 && static_cast<unsigned char>(character[1]) < 0xa0;
}

struct UnitName {
    std::string_view name;
    Unit unit;
};
constexpr std::array<UnitName, 6> kUnits = {{{"auto", Unit::kAuto},
                                             {"B", Unit::kBytes},
                                             {"K", Unit::kKib},
                                             {"M", Unit::kMib},
                                             {"G", Unit::kGib},
                                             {"pages", Unit::kPages}}};

} // namespace

std::string_view trimmed(std::string_view text) {
    constexpr std::string_view kBlank = " \t\r\n\v\f";
    const std::size_t first = text.find_first_not_of(kBlank);
    if (first == std::string_view::npos)
        return {};
    return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

std::optional<double> parse_real(std::string_view text) {
    double value = 0;
    const char *end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value);
    if (error != std::errc() || stop != end)
        return std::nullopt;
    return value;
}

std::optional<std::uint64_t> parse_bytes(std::string_view text) {
    constexpr std::string_view kSuffixes = "KMGT";
    unsigned shift = 0;
    if (!text.empty())
        if (const std::size_t index = kSuffixes.find(text.back()); index != std::string_view::npos)
            shift = 10 * (static_cast<unsigned>(index) + 1), text.remove_suffix(1);
    const auto value = parse_integer<std::uint64_t>(text);
    if (!value || *value > UINT64_MAX >> shift)
        return std::nullopt;
    return *value << shift;
}

std::vector<std::string> split(std::string_view text, char separator) {
    std::vector<std::string> parts;
    for (;;) {
        const std::size_t end = text.find(separator);
        parts.emplace_back(text.substr(0, end));
        if (end == std::string_view::npos)
            return parts;
        text.remove_prefix(end + 1);
    }
}

std::string printable(std::string_view text) {
    std::string out;
    while (!text.empty()) {
        const std::size_t length = utf8_length(text);
        if (length != 0 && !control(text.substr(0, length))) {
            out += text.substr(0, length);
            text.remove_prefix(length);
        } else {
            out += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[0]));
            text.remove_prefix(1);
        }
    }
    return out;
}

std::size_t display_width(std::string_view text) {
    // One column for each character: names in East Asian scripts come out too narrow.
    std::size_t width = 0;
    for (const char c : text)
        width += (static_cast<unsigned char>(c) & 0xc0U) != 0x80U;
    return width;
}

std::string shortened(std::string_view text, std::size_t width) {
    if (display_width(text) <= width)
        return std::string(text);
    std::string out;
    std::size_t used = 0;
    for (const char c : text) {
        used += (static_cast<unsigned char>(c) & 0xc0U) != 0x80U;
        if (used >= width)
            break;
        out += c;
    }
    return width == 0 ? std::string() : out + "…";
}

Unit parse_unit(std::string_view text) {
    for (const UnitName &known : kUnits)
        if (known.name == text)
            return known.unit;
    throw UsageError(
        fmt::format("--units: '{}' is not one of auto, B, K, M, G, pages", printable(text)));
}

std::string format_bytes(std::uint64_t bytes, Unit unit, std::uint64_t page_size) {
    switch (unit) {
    case Unit::kBytes:
        return std::to_string(bytes);
    case Unit::kKib:
        return std::to_string(bytes >> 10U);
    case Unit::kMib:
        return fmt::format("{:.1f}", static_cast<double>(bytes) / (1U << 20U));
    case Unit::kGib:
        return fmt::format("{:.2f}", static_cast<double>(bytes) / (1U << 30U));
    case Unit::kPages:
        return std::to_string(bytes / page_size);
    case Unit::kAuto:
        break;
    }
    if (bytes < 1024)
        return std::to_string(bytes);
    auto value = static_cast<double>(bytes);
    std::size_t power = 0;
    constexpr std::string_view kSuffixes = " KMGTPE";
    for (; value >= 1023.95; ++power)
        value /= 1024;
    return fmt::format("{:.{}f}{}", value, value < 99.95 ? 1 : 0, kSuffixes[power]);
}

std::string format_change(std::int64_t bytes, Unit unit, std::uint64_t page_size) {
    if (bytes == 0)
        return "0";
    const std::uint64_t size =
        bytes < 0 ? 0 - static_cast<std::uint64_t>(bytes) : static_cast<std::uint64_t>(bytes);
    return (bytes < 0 ? "-" : "+") + format_bytes(size, unit, page_size);
}

std::string utf8(std::string_view text) {
    std::string out;
    while (!text.empty()) {
        const std::size_t length = utf8_length(text);
        out += length == 0 ? "\xef\xbf\xbd" : text.substr(0, length);
        text.remove_prefix(length == 0 ? 1 : length);
    }
    return out;
}

std::string xml_escaped(std::string_view text) {
    std::string out;
    while (!text.empty()) {
        const std::size_t length = utf8_length(text);
        const std::string_view character = text.substr(0, length);
        text.remove_prefix(length == 0 ? 1 : length);
        if (length == 0 || (length == 1 && control(character)))
            out += "\xef\xbf\xbd";
        else if (character == "&")
            out += "&amp;";
        else if (character == "<")
            out += "&lt;";
        else if (character == ">")
            out += "&gt;";
        else if (character == "\"")
            out += "&quot;";
        else if (character == "'")
            out += "&#39;";
        else
            out += character;
    }
    return out;
}

} // namespace upm::pss
