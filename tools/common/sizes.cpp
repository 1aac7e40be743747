// SPDX-License-Identifier: MIT
#include "tools/common/sizes.hpp"

#include "tools/common/errors.hpp"
#include "tools/common/text.hpp"

#include <array>
#include <fmt/format.h>

namespace upm::tool {

namespace {

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

// "1.5" of 1.5 GiB, and which power of 1024 that is.
struct Scaled {
    double value;
    std::size_t power;
};
Scaled scaled(std::uint64_t bytes) {
    Scaled result{static_cast<double>(bytes), 0};
    // 1023.95 would be printed as 1024.0
    for (; result.value >= 1023.95; ++result.power)
        result.value /= 1024;
    return result;
}

constexpr std::string_view kPrefixes = " KMGTPE";

} // namespace

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
    const auto [value, power] = scaled(bytes);
    return fmt::format("{:.{}f}{}", value, value < 99.95 ? 1 : 0, kPrefixes[power]);
}

std::string format_change(std::int64_t bytes, Unit unit, std::uint64_t page_size) {
    if (bytes == 0)
        return "0";
    const std::uint64_t size =
        bytes < 0 ? 0 - static_cast<std::uint64_t>(bytes) : static_cast<std::uint64_t>(bytes);
    return (bytes < 0 ? "-" : "+") + format_bytes(size, unit, page_size);
}

std::string human_bytes(std::uint64_t bytes) {
    if (bytes < 1024)
        return fmt::format("{} B", bytes);
    const auto [value, power] = scaled(bytes);
    return fmt::format("{:.1f} {}iB", value, kPrefixes[power]);
}

std::string human_seconds(double seconds) {
    if (seconds >= 1)
        return fmt::format("{:.2f} s", seconds);
    if (seconds >= 1e-3)
        return fmt::format("{:.1f} ms", seconds * 1e3);
    return fmt::format("{:.0f} us", seconds * 1e6);
}

} // namespace upm::tool
