// SPDX-License-Identifier: MIT
#include "tools/common/command_line.hpp"

#include "tools/common/errors.hpp"
#include "tools/common/sizes.hpp"
#include "tools/common/text.hpp"

#include <fmt/format.h>
#include <optional>

namespace upm::tool {

namespace {

cxxopts::ParseResult parse(cxxopts::Options &known, int argc, const char *const *argv) {
    try {
        return known.parse(argc, argv);
    } catch (const cxxopts::exceptions::exception &error) {
        throw UsageError(printable(error.what()));
    }
}

std::string shown(std::string_view name) {
    return fmt::format("{}{}", name.size() == 1 ? "-" : "--", name);
}

} // namespace

std::uint64_t number_of_option(std::string_view name, std::string_view text, std::uint64_t least,
                               std::uint64_t most) {
    const auto value = parse_integer<std::uint64_t>(text);
    if (value && *value >= least && *value <= most)
        return *value;
    const std::string range = most < INT64_MAX ? fmt::format("from {} to {}", least, most)
                                               : fmt::format("from {} on", least);
    throw UsageError(
        fmt::format("{}: '{}' is no whole number {}", shown(name), printable(text), range));
}

std::uint64_t bytes_of_option(std::string_view name, std::string_view text, std::uint64_t least) {
    const auto value = parse_bytes(text);
    if (value && *value >= least)
        return *value;
    throw UsageError(fmt::format("{}: '{}' is no number of bytes (K, M, G) from {} on", shown(name),
                                 printable(text), least));
}

CommandLine::CommandLine(cxxopts::Options &known, int argc, const char *const *argv)
    : parsed_(parse(known, argc, argv)) {
    if (!has("help") && !has("version") && !parsed_.unmatched().empty())
        throw UsageError(
            fmt::format("stray argument '{}'", printable(parsed_.unmatched().front())));
}

std::vector<std::string> CommandLine::list(const char *name) const {
    return has(name) ? parsed_[name].as<std::vector<std::string>>() : std::vector<std::string>();
}

std::uint64_t CommandLine::number(const char *name, std::uint64_t otherwise, std::uint64_t least,
                                  std::uint64_t most) const {
    return has(name) ? number_of_option(name, text(name), least, most) : otherwise;
}

double CommandLine::real(const char *name, double otherwise, double least, double most) const {
    if (!has(name))
        return otherwise;
    const std::optional<double> value = parse_real(text(name));
    if (!value || !(*value >= least && *value <= most))
        throw UsageError(fmt::format("{}: '{}' is no number from {} to {}", shown(name),
                                     printable(text(name)), least, most));
    return *value;
}

} // namespace upm::tool
