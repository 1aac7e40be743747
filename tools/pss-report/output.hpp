// SPDX-License-Identifier: MIT
//
// A report as text: for people, and for programs.
#ifndef UPM_TOOLS_PSS_REPORT_OUTPUT_HPP
#define UPM_TOOLS_PSS_REPORT_OUTPUT_HPP

#include "tools/pss-report/report.hpp"
#include "tools/pss-report/text.hpp"

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace upm::pss {

using Json = nlohmann::ordered_json;

struct Style {
    Unit unit = Unit::kAuto;
    bool color = false;
    std::size_t width = 0; // columns of the terminal; 0: no limit
    std::size_t limit = 0; // rows; 0: all
    // A column whose title gets an arrow: up if `reverse`.
    std::string sorted_by = {};
    bool reverse = false;
};

// Cells below titles, each column as wide as its widest cell; numbers to the right.
class Table {
  public:
    struct Column {
        std::string title;
        bool left = false;
    };
    explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
    // `tint`: an SGR sequence such as "1", or empty.
    void add(std::vector<std::string> cells, std::string tint = {});
    [[nodiscard]] std::string text(const Style &style) const;

    struct Line {
        std::vector<std::string> cells;
        std::string tint;
    };
    [[nodiscard]] const std::vector<Column> &columns() const { return columns_; }
    [[nodiscard]] const std::vector<Line> &lines() const { return lines_; }

  private:
    std::vector<Column> columns_;
    std::vector<Line> lines_;
};

Table table_of(const Report &report, const Snapshot &snapshot,
               const std::vector<std::string> &fields, const Style &style);
// The same as text, and the notes.
std::string to_table(const Report &report, const Snapshot &snapshot,
                     const std::vector<std::string> &fields, const Style &style);
// The lines below a table: who is missing, and why. Empty if nobody is.
std::string notes(const Snapshot &snapshot, const Style &style);

Json to_json(const Report &report, const Snapshot &snapshot, std::size_t limit = 0);
// The text of a document. Bytes that are not UTF-8 are replaced by U+FFFD.
std::string dump(const Json &json, int indent = 2);

std::string to_csv(const Report &report, const Snapshot &snapshot, std::size_t limit = 0);
std::string to_prometheus(const Report &report, const Snapshot &snapshot);

} // namespace upm::pss

#endif // UPM_TOOLS_PSS_REPORT_OUTPUT_HPP
