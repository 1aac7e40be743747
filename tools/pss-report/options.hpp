// SPDX-License-Identifier: MIT
//
// The command line.
#ifndef UPM_TOOLS_PSS_REPORT_OPTIONS_HPP
#define UPM_TOOLS_PSS_REPORT_OPTIONS_HPP

#include "tools/common/sizes.hpp"
#include "tools/pss-report/model/report.hpp"
#include "tools/pss-report/model/series.hpp"
#include "tools/pss-report/read/collect.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace upm::tool::pss {

enum class Format : std::uint8_t { kTable, kJson, kCsv, kPrometheus };
enum class Color : std::uint8_t { kAuto, kAlways, kNever };

// In the order of the help.
// NOLINTNEXTLINE(clang-analyzer-optin.performance.Padding)
struct Options {
    std::string root; // of /proc and /sys, for tests
    CollectOptions collect = {};
    GroupBy by = GroupBy::kProcess;
    std::string sort = "pss";
    bool reverse = false;
    std::vector<std::string> fields = {}; // empty: those of the grouping
    std::size_t limit = 0;
    Unit unit = Unit::kAuto;
    Format format = Format::kTable;
    Color color = Color::kAuto;
    std::string output = "-";

    bool estimate = false;
    bool layout = false;                                  // what would one layout bring?
    double max_cpu = 100;                                 // per cent of one processor
    std::uint64_t max_memory = std::uint64_t{256} << 20U; // bytes of bookkeeping

    bool top = false;        // the live view
    double watch = 0;        // seconds between reports; 0: one report
    std::uint64_t count = 0; // reports; 0: until interrupted

    std::string record;                       // a file to add to
    std::vector<std::string> diff = {};       // two recordings
    std::vector<std::string> recordings = {}; // to report on, in place of /proc
    std::string draw;                         // a file that describes a figure or a page
    std::string plot;                         // a file for the figure
    std::string html;                         // a file for the page
    Axis axis = Axis::kAuto;
    bool total = false; // figures of sums
    std::string title;
    std::string tag;
    std::int64_t n = -1;

    bool help = false;    // has been printed
    bool version = false; // has been printed
};

// Throws UsageError.
Options parse_options(const std::vector<std::string> &arguments);

} // namespace upm::tool::pss

#endif // UPM_TOOLS_PSS_REPORT_OPTIONS_HPP
