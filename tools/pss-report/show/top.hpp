// SPDX-License-Identifier: MIT
//
// The live view without a terminal: keys in, lines out. live.cpp puts them on a screen.
#ifndef UPM_TOOLS_PSS_REPORT_SHOW_TOP_HPP
#define UPM_TOOLS_PSS_REPORT_SHOW_TOP_HPP

#include "tools/pss-report/model/report.hpp"
#include "tools/pss-report/show/output.hpp"

#include <string>
#include <vector>

namespace upm::tool::pss {

// Keys that are no characters, above all that are (U+10FFFF).
enum TopKey : char32_t {
    kKeyUp = 0x110000,
    kKeyDown,
    kKeyLeft,
    kKeyRight,
    kKeyPageUp,
    kKeyPageDown,
    kKeyHome,
    kKeyEnd,
    kKeyBackspace,
    kKeyEnter,
    kKeyEscape,
};

struct TopLine {
    enum class Look : std::uint8_t { kPlain, kBold, kDim, kGood, kTitle, kKeys };
    std::string text; // printable
    Look look = Look::kPlain;
};

struct TopOptions {
    GroupBy by = GroupBy::kProcess;
    std::string sort = "pss";
    bool reverse = false;
    std::vector<std::string> fields = {}; // empty: those of the grouping
    Unit unit = Unit::kAuto;
    std::size_t limit = 0;
    bool mappings = false;
    double seconds = 2; // between looks
};

class Top {
  public:
    explicit Top(TopOptions options) : options_(std::move(options)) {}

    // False: the user wants to leave.
    bool key(char32_t key);

    // Exactly `height` lines, none wider than `width`.
    std::vector<TopLine> screen(const Snapshot &snapshot, std::size_t width, std::size_t height);

    // What the next look is to be like; keys change it.
    [[nodiscard]] bool paused() const { return paused_; }
    [[nodiscard]] bool mappings() const { return options_.mappings; }
    [[nodiscard]] double seconds() const { return options_.seconds; }

  private:
    void edit_filter(char32_t key);
    void scroll(char32_t key);
    bool change_view(char32_t key);
    void next_sort(bool forwards);
    [[nodiscard]] std::vector<std::string> fields() const;
    [[nodiscard]] std::string status(const Snapshot &snapshot, const Report &report) const;
    [[nodiscard]] bool shown(const Process &process) const;

    TopOptions options_;
    std::string filter_;
    bool editing_ = false; // the filter
    bool help_ = false;
    bool paused_ = false;
    std::size_t first_ = 0; // row at the top
    std::size_t page_ = 1;  // rows that fit, at the last drawing
};

} // namespace upm::tool::pss

#endif // UPM_TOOLS_PSS_REPORT_SHOW_TOP_HPP
