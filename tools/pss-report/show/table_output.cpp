// SPDX-License-Identifier: MIT
//
// Reports for people.
#include "tools/pss-report/show/output.hpp"

#include "tools/common/text.hpp"

#include <algorithm>
#include <cerrno>
#include <fmt/format.h>
#include <system_error>

namespace upm::tool::pss {

namespace {

constexpr const char *kBold = "1";
constexpr const char *kGreen = "32";
constexpr const char *kDim = "2";

std::string upper(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(),
                   [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 32) : c; });
    return text == "PROCESSES" ? "PROCS" : text;
}

std::string counted(std::uint64_t number, const char *one, const char *many) {
    return fmt::format("{} {}", number, number == 1 ? one : many);
}

Table::Align alignment(std::string_view field) {
    const bool text = field != "pid" && field != "processes" && find_usage_field(field) == nullptr;
    return text ? Table::Align::kLeft : Table::Align::kRight;
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

} // namespace

Table table_of(const Report &report, const Snapshot &snapshot,
               const std::vector<std::string> &fields, const Style &style) {
    std::vector<Table::Column> columns;
    columns.reserve(fields.size() + 1);
    for (const std::string &field : fields) {
        const UsageField *const usage = find_usage_field(field);
        std::string title = usage != nullptr ? usage->title : upper(field);
        if (field == style.sorted_by)
            title += style.reverse ? "↑" : "↓";
        columns.push_back({std::move(title), alignment(field)});
    }
    if (report.total.kinds)
        columns.push_back({"KIND", Table::Align::kLeft});
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
    return table_of(report, snapshot, fields, style).text(style.width, style.color) +
           notes(snapshot, style);
}

std::string notes(const Snapshot &snapshot, const Style &style) {
    const Skipped &skipped = snapshot.skipped;
    std::string out;
    if (!skipped.unreadable.empty()) {
        std::uint64_t rss = 0;
        for (const Unreadable &process : skipped.unreadable)
            rss += process.rss;
        const std::string denied = std::generic_category().message(EACCES);
        const bool any_denied =
            std::any_of(skipped.unreadable.begin(), skipped.unreadable.end(),
                        [&](const Unreadable &p) { return p.reason == denied; });
        out += fmt::format("not in these figures: {} that {} be read (RSS {}{}):\n",
                           counted(skipped.unreadable.size(), "process", "processes"),
                           any_denied ? "may not" : "cannot", format_bytes(rss, style.unit),
                           any_denied ? "; try as root" : "");
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

} // namespace upm::tool::pss
