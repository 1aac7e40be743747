// SPDX-License-Identifier: MIT
#include "tools/pss-report/show/document.hpp"

#include "tools/common/errors.hpp"
#include "tools/common/text.hpp"
#include "tools/pss-report/show/page.hpp"

#include <cmath>
#include <fmt/format.h>

namespace upm::tool::pss {

namespace {

using Pairs = std::vector<std::pair<std::string, std::string>>;

std::string text_of(const Json &json, const char *name) {
    return printable(json.value(name, std::string()));
}

Curve curve_from(const Json &json, std::size_t place) {
    Curve curve;
    curve.title = text_of(json, "title");
    curve.color = json.value("color", place);
    curve.dash = json.value("dash", 1U);
    for (const Json &point : json.at("points")) {
        const auto x = point.at(0).get<double>(), y = point.at(1).get<double>();
        if (!std::isfinite(x) || !std::isfinite(y))
            throw Failure("a point is no number");
        curve.points.emplace_back(x, y);
    }
    return curve;
}

Pairs pairs_from(const Json &json) {
    Pairs pairs;
    for (const Json &pair : json)
        pairs.emplace_back(printable(pair.at(0).get<std::string>()),
                           printable(pair.at(1).get<std::string>()));
    return pairs;
}

// Links lead to files beside the page, or elsewhere by https; to no script.
Pairs links_from(const Json &json) {
    Pairs links = pairs_from(json);
    for (const auto &[text, target] : links)
        if (target.find(':') != std::string::npos && !target.starts_with("https://"))
            throw Failure(fmt::format("'{}' is no place for a link", target));
    return links;
}

Table table_from(const Json &json) {
    std::vector<Table::Column> columns;
    for (const Json &title : json.at("columns")) // the first one has names
        columns.push_back({printable(title.get<std::string>()),
                           columns.empty() ? Table::Align::kLeft : Table::Align::kRight});
    Table table(columns);
    for (const Json &row : json.at("rows")) {
        std::vector<std::string> cells;
        for (const Json &cell : row)
            cells.push_back(printable(cell.get<std::string>()));
        if (cells.size() != columns.size())
            throw Failure(fmt::format("a row has {} cells, and there are {} columns", cells.size(),
                                      columns.size()));
        table.add(std::move(cells));
    }
    return table;
}

void add_part(Page &page, const std::string &kind, const Json &content) {
    if (kind == "heading")
        page.heading(printable(content.get<std::string>()));
    else if (kind == "paragraph")
        page.paragraph(printable(content.get<std::string>()));
    else if (kind == "links")
        page.links(links_from(content));
    else if (kind == "numbers")
        page.numbers(pairs_from(content));
    else if (kind == "table")
        page.table(table_from(content));
    else if (kind == "figure")
        page.figure(figure_from_json(content));
    else
        throw Failure(fmt::format("a page has no part '{}'", printable(kind)));
}

Figure figure_of_known_form(const Json &json) {
    Figure figure;
    const std::string kind = json.at("kind").get<std::string>();
    if (kind != "bars" && kind != "lines")
        throw Failure(fmt::format("a figure has bars or lines, and no '{}'", printable(kind)));
    figure.kind = kind == "bars" ? FigureKind::kBars : FigureKind::kLines;
    figure.title = text_of(json, "title");
    figure.x_title = text_of(json, "x");
    figure.y_title = text_of(json, "y");
    figure.measure = text_of(json, "measure");
    figure.changes = json.value("changes", false);
    for (const Json &name : json.value("categories", Json::array()))
        figure.categories.push_back(printable(name.get<std::string>()));
    for (const Json &curve : json.at("curves"))
        figure.curves.push_back(curve_from(curve, figure.curves.size()));
    return figure;
}

} // namespace

Figure figure_from_json(const Json &json) {
    try {
        return figure_of_known_form(json);
    } catch (const Json::exception &error) {
        throw Failure(fmt::format("no description of a figure: {}", printable(error.what())));
    }
}

std::string page_from_json(const Json &json) {
    try {
        Page page(text_of(json, "title"));
        page.facts(pairs_from(json.value("facts", Json::array())));
        for (const Json &part : json.at("parts"))
            for (const auto &[kind, content] : part.items())
                add_part(page, kind, content);
        return page.text();
    } catch (const Json::exception &error) {
        throw Failure(fmt::format("no description of a page: {}", printable(error.what())));
    }
}

} // namespace upm::tool::pss
