// SPDX-License-Identifier: MIT
#include "tools/pss-report/show/html.hpp"

#include "tools/common/text.hpp"
#include "tools/pss-report/show/diff.hpp"
#include "tools/pss-report/show/estimate_output.hpp"
#include "tools/pss-report/show/page.hpp"

#include <cmath>
#include <fmt/format.h>

namespace upm::tool::pss {

namespace {

using Pairs = std::vector<std::pair<std::string, std::string>>;

// "1.5 GiB"
std::string bytes_text(double bytes) {
    std::string text = format_bytes(static_cast<std::uint64_t>(std::llround(bytes)), Unit::kAuto);
    if (text.back() >= '0' && text.back() <= '9')
        return text + " B";
    return text.insert(text.size() - 1, " ") + "iB";
}

Pairs facts_of(const Snapshot &snapshot) {
    return {{"host", snapshot.host},
            {"Linux", snapshot.kernel},
            {"memory", bytes_text(static_cast<double>(snapshot.system.mem_total))},
            {"taken", snapshot.time},
            {"by", "pss-report " UPM_VERSION}};
}

std::vector<std::string> lines_of(const std::string &text) {
    std::vector<std::string> lines = split(text, '\n');
    std::erase(lines, "");
    return lines;
}

void add_paragraphs(Page &page, const std::string &text) {
    for (const std::string &line : lines_of(text))
        page.paragraph(line);
}

void add_notes(Page &page, const Snapshot &snapshot) {
    const std::string text = notes(snapshot, {});
    if (text.empty())
        return;
    page.heading("Not in these figures");
    add_paragraphs(page, text);
}

void add_meanings(Page &page) {
    Pairs terms;
    for (const UsageField &field : kUsageFields)
        terms.emplace_back(field.title, field.help);
    page.definitions("What the columns mean", terms);
}

Table group_table(const Report &report, const Snapshot &snapshot, Unit unit, std::size_t limit) {
    return table_of(report, snapshot, default_fields(report.by), {.unit = unit, .limit = limit});
}

void add_estimate(Page &page, const Estimate &estimate, const SeriesOptions &options,
                  std::size_t limit) {
    page.heading("What merging would save");
    page.numbers({{bytes_text(estimate.total.saving), "by perfect merging"},
                  {bytes_text(static_cast<double>(estimate.total.scanned)), "were read"},
                  {bytes_text(static_cast<double>(estimate.now)), "saved by sharing now"}});
    if (!estimate.extrapolation.empty())
        page.figure(figure_of(estimate, options));
    const Style style{.unit = options.unit, .limit = limit};
    page.table(table_of(estimate, style));
    add_paragraphs(page, summary(estimate, style));
}

// The first label against the last, and its parts.
void add_change(Page &page, const std::vector<Series> &series, const SeriesOptions &options) {
    const Series &before = series.front(), &after = series.back();
    page.heading(fmt::format("From “{}” to “{}”", printable(before.label), printable(after.label)));
    const Gains parts = gains(before.last, after.last);
    const auto text = [&](std::int64_t bytes) { return format_change(-bytes, options.unit); };
    Table table({{"PART OF THE CHANGE", Table::Align::kLeft}, {"PSS"}});
    table.add({"merged pages", text(parts.merge)});
    table.add({"pages of zeros, dropped", text(parts.zero)});
    table.add({"trimmed: no longer there", text(parts.trim)});
    table.add({"other sharing", text(parts.rest)});
    table.add({"change of PSS", text(parts.pss)}, "1");
    page.table(table);
}

Pairs numbers_of(const std::vector<Series> &series, const SeriesOptions &options) {
    Pairs numbers;
    double first = 0;
    for (const Series &one : series) {
        const Sample &sample = one.samples.back();
        const double copies = options.total || sample.copies == 0 ? 1 : sample.copies;
        const double pss = static_cast<double>(sample.usage.pss) / copies;
        std::string meaning =
            fmt::format("PSS {}, {}", options.total ? "in all" : "each", printable(one.label));
        if (&one == series.data())
            first = pss;
        else if (first > 0)
            meaning += fmt::format(" ({:+.1f} %)", 100 * (pss / first - 1));
        numbers.emplace_back(bytes_text(pss), meaning);
    }
    return numbers;
}

} // namespace

std::string html_report(const Report &report, const Snapshot &snapshot, const Estimate *estimate,
                        const SeriesOptions &options, std::size_t limit) {
    Page page(options.title.empty() ? fmt::format("Memory by {}", name_of(report.by))
                                    : options.title);
    page.facts(facts_of(snapshot));
    const Usage &total = report.total.usage;
    page.numbers({{bytes_text(static_cast<double>(total.rss)), "RSS"},
                  {bytes_text(static_cast<double>(total.pss)), "PSS"},
                  {bytes_text(static_cast<double>(total.saved)), "saved by merging"},
                  {std::to_string(report.total.processes), "processes"}});
    SeriesOptions largest = options;
    largest.title = "The largest by PSS";
    Report by_pss = report;
    sort_rows(by_pss.rows, "pss", false);
    if (!report.rows.empty())
        page.figure(figure_of(by_pss, 0, largest));
    SeriesOptions curve = options;
    curve.title.clear();
    if (estimate != nullptr)
        add_estimate(page, *estimate, curve, limit);
    page.heading("All of them");
    page.table(group_table(report, snapshot, options.unit, limit));
    add_notes(page, snapshot);
    add_meanings(page);
    return page.text();
}

std::string html_report(const std::vector<Series> &series, const SeriesOptions &options,
                        std::size_t limit) {
    const Snapshot &latest = series.back().last;
    Page page(options.title.empty() ? "Memory, side by side" : options.title);
    page.facts(facts_of(latest));
    page.numbers(numbers_of(series, options));
    SeriesOptions figure = options;
    figure.title.clear();
    page.figure(figure_of(series, figure));
    // The sums as well, where that says something else.
    figure.total = !options.total;
    if (axis_of(series, options.axis) == Axis::kN)
        page.figure(figure_of(series, figure));
    page.heading(options.total ? "Sums" : "Means, and the sum of PSS");
    page.table(series_table(series, options));
    if (series.size() > 1)
        add_change(page, series, options);
    page.heading("In detail");
    for (const Series &one : series) {
        Report report = make_report(one.last, options.by);
        sort_rows(report.rows, "pss", false);
        page.folded(fmt::format("{}: {} rows, taken {}", printable(one.label), report.rows.size(),
                                one.last.time),
                    group_table(report, one.last, options.unit, limit));
    }
    add_notes(page, latest);
    add_meanings(page);
    return page.text();
}

} // namespace upm::tool::pss
