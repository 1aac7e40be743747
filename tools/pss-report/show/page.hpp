// SPDX-License-Identifier: MIT
//
// A page of HTML that needs nothing but itself: no script, no other file, no network.
#ifndef UPM_TOOLS_PSS_REPORT_SHOW_PAGE_HPP
#define UPM_TOOLS_PSS_REPORT_SHOW_PAGE_HPP

#include "tools/pss-report/show/output.hpp"
#include "tools/pss-report/show/plot.hpp"

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace upm::tool::pss {

// Texts are escaped here. They may hold any bytes.
class Page {
  public:
    explicit Page(std::string_view title);

    void heading(std::string_view text);
    void paragraph(std::string_view text);
    // Texts and where they lead, in one line.
    void links(const std::vector<std::pair<std::string, std::string>> &links);
    // Short facts in one line, under the title.
    void facts(const std::vector<std::pair<std::string, std::string>> &facts);
    // Large numbers, each with a line below it.
    void numbers(const std::vector<std::pair<std::string, std::string>> &numbers);
    void table(const Table &table);
    // A table that is folded away behind its title.
    void folded(std::string_view title, const Table &table);
    void figure(const Figure &figure);
    // Folded away as well.
    void definitions(std::string_view title,
                     const std::vector<std::pair<std::string, std::string>> &terms);

    [[nodiscard]] std::string text() const;

  private:
    std::string body_;
    std::string title_;
};

} // namespace upm::tool::pss

#endif // UPM_TOOLS_PSS_REPORT_SHOW_PAGE_HPP
