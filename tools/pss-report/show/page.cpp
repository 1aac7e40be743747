// SPDX-License-Identifier: MIT
#include "tools/pss-report/show/page.hpp"

#include "tools/common/errors.hpp"
#include "tools/common/text.hpp"

#include <fmt/format.h>

namespace upm::tool::pss {

namespace {

// Figures have dark lines on no ground: at night they are inverted, and their hues
// turned back.
constexpr std::string_view kStyle = R"(
:root { color-scheme: light dark; --ink: #1c2024; --dim: #60666c; --ground: #ffffff;
  --soft: #f4f6f8; --line: #d9dde1; --good: #00713f; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8ea; --dim: #a0a6ac; --ground: #16191c; --soft: #1f2429;
    --line: #373d43; --good: #58c592; }
  figure svg { filter: invert(1) hue-rotate(180deg); }
}
body { font: 15px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; color: var(--ink);
  background: var(--ground); margin: 2rem; }
p, dl { max-width: 68rem; }
h1 { font-size: 1.6rem; margin: 0; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; border-bottom: 1px solid var(--line); }
a { color: inherit; }
p.facts { color: var(--dim); margin: .2rem 0 1rem; }
p.facts span + span::before { content: " · "; }
div.numbers { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1rem 0; }
div.numbers div { background: var(--soft); border-radius: 8px; padding: .7rem 1.1rem; }
div.numbers b { display: block; font-size: 1.5rem; }
div.numbers span { color: var(--dim); }
figure { margin: 1.4rem 0; }
@media (min-width: 80rem) {
  div.figures { display: grid; grid-template-columns: 1fr 1fr; gap: 0 2rem; }
  div.figures figure:only-child { grid-column: 1 / -1; }
}
figure svg { width: 100%; height: auto; max-height: 85vh; }
figcaption { font-weight: 600; margin-bottom: .2rem; }
div.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .22rem .7rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; color: var(--dim); position: sticky; top: 0; background: var(--ground); }
th.left, td.left { text-align: left; }
tr.total td { font-weight: 700; }
tr.kind td { color: var(--dim); }
tr.saved td { color: var(--good); }
details { margin: .6rem 0; }
summary { cursor: pointer; font-weight: 600; }
dt { font-weight: 600; }
dd { margin: 0 0 .4rem 1.2rem; color: var(--dim); }
)";

constexpr std::string_view kFiguresEnd = "</div><!-- figures -->\n";

const char *class_of(const std::string &tint) {
    return tint == "1"    ? " class=\"total\""
           : tint == "2"  ? " class=\"kind\""
           : tint == "32" ? " class=\"saved\""
                          : "";
}

// Cells come from printable(), and end in blanks only where a kind is set in.
std::string html_of(const Table &table) {
    std::string out = "<div class=\"scroll\"><table>\n<thead><tr>";
    const auto &columns = table.columns();
    for (const Table::Column &column : columns)
        out += fmt::format("<th{}>{}</th>", column.left() ? " class=\"left\"" : "",
                           xml_escaped(column.title));
    out += "</tr></thead>\n<tbody>\n";
    for (const Table::Line &line : table.lines()) {
        out += fmt::format("<tr{}>", class_of(line.tint));
        for (std::size_t i = 0; i < line.cells.size(); ++i)
            out += fmt::format("<td{}>{}</td>", columns[i].left() ? " class=\"left\"" : "",
                               xml_escaped(line.cells[i]));
        out += "</tr>\n";
    }
    return out + "</tbody></table></div>\n";
}

} // namespace

Page::Page(std::string_view title) : title_(xml_escaped(title)) {}

void Page::heading(std::string_view text) {
    body_ += fmt::format("<h2>{}</h2>\n", xml_escaped(text));
}

void Page::paragraph(std::string_view text) {
    body_ += fmt::format("<p>{}</p>\n", xml_escaped(text));
}

void Page::links(const std::vector<std::pair<std::string, std::string>> &links) {
    body_ += "<p class=\"facts\">";
    for (const auto &[text, target] : links)
        body_ += fmt::format("<span><a href=\"{}\">{}</a></span>", xml_escaped(target),
                             xml_escaped(text));
    body_ += "</p>\n";
}

void Page::facts(const std::vector<std::pair<std::string, std::string>> &facts) {
    body_ += "<p class=\"facts\">";
    for (const auto &[name, value] : facts)
        body_ += fmt::format("<span>{} {}</span>", xml_escaped(name), xml_escaped(value));
    body_ += "</p>\n";
}

void Page::numbers(const std::vector<std::pair<std::string, std::string>> &numbers) {
    body_ += "<div class=\"numbers\">\n";
    for (const auto &[number, meaning] : numbers)
        body_ += fmt::format("<div><b>{}</b><span>{}</span></div>\n", xml_escaped(number),
                             xml_escaped(meaning));
    body_ += "</div>\n";
}

void Page::table(const Table &table) {
    body_ += html_of(table);
}

void Page::folded(std::string_view title, const Table &table) {
    body_ += fmt::format("<details><summary>{}</summary>\n{}</details>\n", xml_escaped(title),
                         html_of(table));
}

void Page::figure(const Figure &figure) {
    const std::string svg = draw(figure, Ground::kPage);
    // Figures that follow each other stand side by side where there is room.
    if (body_.ends_with(kFiguresEnd))
        body_.resize(body_.size() - kFiguresEnd.size());
    else
        body_ += "<div class=\"figures\">\n";
    // Without the prolog, which a page cannot hold.
    body_ +=
        fmt::format("<figure role=\"img\" aria-label=\"{0}\"><figcaption>{0}</figcaption>\n"
                    "{1}</figure>\n",
                    xml_escaped(figure.title), svg.substr(std::min(svg.find("<svg"), svg.size())));
    body_ += kFiguresEnd;
}

void Page::definitions(std::string_view title,
                       const std::vector<std::pair<std::string, std::string>> &terms) {
    body_ += fmt::format("<details><summary>{}</summary>\n<dl>\n", xml_escaped(title));
    for (const auto &[term, meaning] : terms)
        body_ += fmt::format("<dt>{}</dt><dd>{}</dd>\n", xml_escaped(term), xml_escaped(meaning));
    body_ += "</dl></details>\n";
}

std::string Page::text() const {
    return fmt::format("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
                       "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
                       "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; "
                       "style-src 'unsafe-inline'\">\n"
                       "<title>{0}</title>\n<style>{1}</style>\n</head>\n<body>\n<h1>{0}</h1>\n"
                       "{2}</body>\n</html>\n",
                       title_, kStyle, body_);
}

} // namespace upm::tool::pss
