// SPDX-License-Identifier: MIT
//
// Small matters of text that every command shares.
#ifndef UPM_TOOLS_TEXT_HPP
#define UPM_TOOLS_TEXT_HPP

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace upm::tool {

std::string_view trimmed(std::string_view text);

// All of `text` as a number; nothing if any of it is something else.
std::optional<unsigned long long> parse_unsigned(std::string_view text, int base);

// "4096", "64K", "2M", "1G" (powers of 1024).
std::optional<std::uint64_t> parse_bytes(std::string_view text);

// For a terminal: control characters, and bytes that are not UTF-8, as \xNN. Names
// of files and processes are chosen by others, and must not steer a terminal.
std::string printable(std::string_view text);

// "1.5 GiB"
std::string human_bytes(std::uint64_t bytes);

// "1.23 s", "45 ms"
std::string human_seconds(double seconds);

// Columns that are as wide as their widest cell; numbers to the right.
class Table {
  public:
    enum class Align : std::uint8_t { kLeft, kRight };
    struct Column {
        std::string title;
        Align align = Align::kRight;
    };

    explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
    void add(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
    // Each line ends in a newline and has no blanks before it.
    [[nodiscard]] std::string text() const;

  private:
    std::vector<Column> columns_;
    std::vector<std::vector<std::string>> rows_;
};

} // namespace upm::tool

#endif // UPM_TOOLS_TEXT_HPP
