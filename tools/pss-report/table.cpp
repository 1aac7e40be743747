// SPDX-License-Identifier: MIT
//
// Reports for people.
#include "tools/pss-report/output.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace upm::pss {

namespace {

constexpr const char *kBold = "1";
constexpr const char *kGreen = "32";
constexpr const char *kDim = "2";

std::string tinted(const std::string &text, const std::string &tint, bool color) {
    return color && !tint.empty() ? fmt::format("\x1b[{}m{}\x1b[0m", tint, text) : text;
}

std::string upper(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(),
                   [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c; });
    return text == "PROCESSES" ? "PROCS" : text;
}

std::string counted(std::uint64_t number, const char *one, const char *many) {
    return fmt::format("{} {}", number, number == 1 ? one : many);
}

bool left_aligned(std::string_view field) {
    return field != "pid" && field != "processes" && find_usage_field(field) == nullptr;
}

std::string cell(const Row &row, const std::string &field, const Style &style,
                 std::uint64_t page_size) {
    if (const UsageField *const usage = find_usage_field(field))
        return format_bytes(row.usage.*usage->member, style.unit, page_size);
    return printable(text_of(row, field));
}

void add_kinds(Table &table, const Row &row, const std::vector<std::string> &fields,
               const Style &style, std::uint64_t page_size) {
    for (std::size_t i = 0; i < kKinds; ++i) {
        const KindUsage &kind = (*row.kinds)[i];
        if (kind.mappings == 0)
            continue;
        std::vector<std::string> cells;
        for (const std::string &field : fields) {
            if (const UsageField *const usage = find_usage_field(field))
                cells.push_back(format_bytes(kind.usage.*usage->member, style.unit, page_size));
            else
                cells.emplace_back();
        }
        cells.back() = fmt::format("  {} ({})", kKindNames[i], kind.mappings);
        table.add(std::move(cells), kDim);
    }
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
            if (columns[i].left && widths[i] > kLeast && (!widest || widths[i] > *widest))
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

std::string Table::text(const Style &style) const {
    std::vector<std::size_t> widths;
    for (const Column &column : columns_)
        widths.push_back(display_width(column.title));
    for (const Line &line : lines_)
        for (std::size_t i = 0; i < line.cells.size(); ++i)
            widths[i] = std::max(widths[i], display_width(line.cells[i]));
    if (style.width != 0)
        fit(widths, columns_, style.width);
    const auto line_text = [&](const std::vector<std::string> &cells) {
        std::string out;
        for (std::size_t i = 0; i < cells.size(); ++i) {
            const std::string text = shortened(cells[i], widths[i]);
            const std::string pad(widths[i] - display_width(text), ' ');
            if (i != 0)
                out += "  ";
            out += columns_[i].left ? text + pad : pad + text;
        }
        out.erase(out.find_last_not_of(' ') + 1);
        return style.width == 0 ? out : shortened(out, style.width);
    };
    std::vector<std::string> titles;
    titles.reserve(columns_.size());
    for (const Column &column : columns_)
        titles.push_back(column.title);
    std::string out = tinted(line_text(titles), kBold, style.color) + "\n";
    for (const Line &line : lines_)
        out += tinted(line_text(line.cells), line.tint, style.color) + "\n";
    return out;
}

Table table_of(const Report &report, const Snapshot &snapshot,
               const std::vector<std::string> &fields, const Style &style) {
    std::vector<Table::Column> columns;
    columns.reserve(fields.size() + 1);
    for (const std::string &field : fields) {
        const UsageField *const usage = find_usage_field(field);
        std::string title = usage != nullptr ? usage->title : upper(field);
        if (field == style.sorted_by)
            title += style.reverse ? "↑" : "↓";
        columns.push_back({std::move(title), left_aligned(field)});
    }
    if (report.total.kinds)
        columns.push_back({"KIND", true});
    Table table(std::move(columns));
    std::vector<std::string> all = fields;
    if (report.total.kinds)
        all.emplace_back(); // the column of kinds
    std::size_t shown = 0;
    for (const Row &row : report.rows) {
        if (style.limit != 0 && shown++ == style.limit)
            break;
        std::vector<std::string> cells;
        cells.reserve(all.size());
        for (const std::string &field : all)
            cells.push_back(cell(row, field, style, snapshot.page_size));
        table.add(std::move(cells), row.usage.saved != 0 ? kGreen : "");
        if (row.kinds)
            add_kinds(table, row, all, style, snapshot.page_size);
    }
    std::vector<std::string> cells;
    bool named = false;
    for (const std::string &field : all) {
        if (find_usage_field(field) != nullptr || field == "processes")
            cells.push_back(cell(report.total, field, style, snapshot.page_size));
        else
            cells.push_back(named ? "" : fmt::format("total {}", report.rows.size())), named = true;
    }
    table.add(std::move(cells), kBold);
    if (report.total.kinds)
        add_kinds(table, report.total, all, style, snapshot.page_size);
    return table;
}

std::string to_table(const Report &report, const Snapshot &snapshot,
                     const std::vector<std::string> &fields, const Style &style) {
    return table_of(report, snapshot, fields, style).text(style) + notes(snapshot, style);
}

std::string notes(const Snapshot &snapshot, const Style &style) {
    const Skipped &skipped = snapshot.skipped;
    std::string out;
    if (!skipped.unreadable.empty()) {
        std::uint64_t rss = 0;
        for (const Unreadable &process : skipped.unreadable)
            rss += process.rss;
        out += fmt::format("not in these figures: {} that may not be read (RSS {}; try as root):\n",
                           counted(skipped.unreadable.size(), "process", "processes"),
                           format_bytes(rss, style.unit));
        constexpr std::size_t kNamed = 20;
        for (std::size_t i = 0; i < std::min(skipped.unreadable.size(), kNamed); ++i) {
            const Unreadable &process = skipped.unreadable[i];
            out += fmt::format("  {} {}: {}\n", process.pid, printable(process.command),
                               process.reason);
        }
        if (skipped.unreadable.size() > kNamed)
            out += fmt::format("  and {} more (--json names all)\n",
                               skipped.unreadable.size() - kNamed);
    }
    if (skipped.vanished != 0)
        out += counted(skipped.vanished, "process", "processes") + " ended while being read\n";
    if (skipped.zombies != 0)
        out += counted(skipped.zombies, "zombie", "zombies") + ", without memory, left out\n";
    if (!snapshot.exact)
        out += "UPM's pages in file mappings were not counted: /proc/kpageflags is for root\n";
    return out;
}

} // namespace upm::pss
