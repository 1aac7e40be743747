// SPDX-License-Identifier: MIT
//
// Cells below titles, each column as wide as its widest cell; numbers to the right.
#ifndef UPM_TOOLS_COMMON_TABLE_HPP
#define UPM_TOOLS_COMMON_TABLE_HPP

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace upm::tool {

class Table {
  public:
    enum class Align : std::uint8_t { kLeft, kRight };
    struct Column {
        std::string title;
        Align align = Align::kRight;
        [[nodiscard]] bool left() const { return align == Align::kLeft; }
    };
    struct Line {
        std::vector<std::string> cells;
        std::string tint;
    };

    explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
    // A cell for each column, printable. `tint`: an SGR sequence such as "1", or empty.
    void add(std::vector<std::string> cells, std::string tint = {});

    // Each line ends in a newline and has no blanks before it. `width`: columns of the
    // terminal, 0: no limit; long texts give way first, then lines are cut.
    [[nodiscard]] std::string text(std::size_t width = 0, bool color = false) const;

    [[nodiscard]] const std::vector<Column> &columns() const { return columns_; }
    [[nodiscard]] const std::vector<Line> &lines() const { return lines_; }

  private:
    std::vector<Column> columns_;
    std::vector<Line> lines_;
};

} // namespace upm::tool

#endif // UPM_TOOLS_COMMON_TABLE_HPP
