// SPDX-License-Identifier: MIT
//
// What a command line gives, by the options of a program. Numbers are read here and not by
// cxxopts, which tells neither the option nor the range.
#ifndef UPM_TOOLS_COMMON_COMMAND_LINE_HPP
#define UPM_TOOLS_COMMON_COMMAND_LINE_HPP

#include <cstdint>
// Lists are given by repeating an option; a comma is part of the value, since names and paths
// may contain one.
// NOLINTNEXTLINE(readability-identifier-naming)
#define CXXOPTS_VECTOR_DELIMITER '\0'
#include <cxxopts.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace upm::tool {

// The number that an option was given, and the same of bytes (K, M and G allowed). Throw
// UsageError with the option's name if it is none of the range.
std::uint64_t number_of_option(std::string_view name, std::string_view text, std::uint64_t least,
                               std::uint64_t most = INT64_MAX);
std::uint64_t bytes_of_option(std::string_view name, std::string_view text, std::uint64_t least);

class CommandLine {
  public:
    // Throws UsageError for what cxxopts refuses and, if it asks for neither help nor version,
    // for words that belong to nothing.
    CommandLine(cxxopts::Options &known, int argc, const char *const *argv);

    [[nodiscard]] bool has(const char *name) const { return parsed_.count(name) != 0; }
    [[nodiscard]] std::string text(const char *name, const char *otherwise = "") const {
        return has(name) ? parsed_[name].as<std::string>() : otherwise;
    }
    [[nodiscard]] std::vector<std::string> list(const char *name) const;
    // Throw UsageError.
    [[nodiscard]] std::uint64_t number(const char *name, std::uint64_t otherwise,
                                       std::uint64_t least = 0,
                                       std::uint64_t most = INT64_MAX) const;
    [[nodiscard]] double real(const char *name, double otherwise, double least, double most) const;

    [[nodiscard]] const cxxopts::ParseResult &parsed() const { return parsed_; }

  private:
    cxxopts::ParseResult parsed_;
};

} // namespace upm::tool

#endif // UPM_TOOLS_COMMON_COMMAND_LINE_HPP
