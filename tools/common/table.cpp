// SPDX-License-Identifier: MIT
#include "tools/common/table.hpp"

#include "tools/common/text.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace upm::tool {

namespace {

std::string tinted(const std::string &text, const std::string &tint, bool color) {
    return color && !tint.empty() ? fmt::format("\x1b[{}m{}\x1b[0m", tint, text) : text;
}

// Long texts, such as a container's name, must not push the columns behind them off a
// narrow screen: the widest ones give way, but no further than to `kLeast`.
void fit(std::vector<std::size_t> &widths, const std::vector<Table::Column> &columns,
         std::size_t width) {
    constexpr std::size_t kLeast = 12;
    std::size_t sum = 2 * (widths.size() - 1);
    for (const std::size_t one : widths)
        sum += one;
    while (sum > width) {
        std::size_t *widest = nullptr;
        for (std::size_t i = 0; i + 1 < widths.size(); ++i) // the last one is cut at the end
            if (columns[i].left() && widths[i] > kLeast && (!widest || widths[i] > *widest))
                widest = &widths[i];
        if (widest == nullptr)
            return;
        --*widest;
        --sum;
    }
}

} // namespace

void Table::add(std::vector<std::string> cells, std::string tint) {
    lines_.push_back({std::move(cells), std::move(tint)});
}

std::string Table::text(std::size_t width, bool color) const {
    std::vector<std::size_t> widths;
    for (const Column &column : columns_)
        widths.push_back(display_width(column.title));
    for (const Line &line : lines_)
        for (std::size_t i = 0; i < line.cells.size(); ++i)
            widths[i] = std::max(widths[i], display_width(line.cells[i]));
    if (width != 0)
        fit(widths, columns_, width);
    const auto line_text = [&](const std::vector<std::string> &cells) {
        std::string out;
        for (std::size_t i = 0; i < cells.size(); ++i) {
            const std::string text = shortened(cells[i], widths[i]);
            const std::string pad(widths[i] - display_width(text), ' ');
            if (i != 0)
                out += "  ";
            out += columns_[i].left() ? text + pad : pad + text;
        }
        out.erase(out.find_last_not_of(' ') + 1);
        return width == 0 ? out : shortened(out, width);
    };
    std::vector<std::string> titles;
    titles.reserve(columns_.size());
    for (const Column &column : columns_)
        titles.push_back(column.title);
    std::string out = tinted(line_text(titles), "1", color) + "\n";
    for (const Line &line : lines_)
        out += tinted(line_text(line.cells), line.tint, color) + "\n";
    return out;
}

} // namespace upm::tool
