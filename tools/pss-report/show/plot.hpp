// SPDX-License-Identifier: MIT
//
// Figures as SVG, drawn by gnuplot.
#ifndef UPM_TOOLS_PSS_REPORT_SHOW_PLOT_HPP
#define UPM_TOOLS_PSS_REPORT_SHOW_PLOT_HPP

#include "tools/common/sizes.hpp"

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace upm::tool::pss {

// Bars stand in clusters, one for each category, with one bar of each series.
enum class FigureKind : std::uint8_t { kBars, kLines };

struct Curve {
    std::string title;
    std::size_t color = 0; // of the palette
    unsigned dash = 1;     // of lines: gnuplot's dash type; 1: none
    // Of bars: category and bytes. Of lines: x and bytes.
    std::vector<std::pair<double, double>> points = {};
};

struct Figure {
    FigureKind kind = FigureKind::kBars;
    std::string title;
    std::string x_title;
    std::string y_title;                      // what follows the unit: "per container"
    std::vector<std::string> categories = {}; // of bars
    std::vector<Curve> curves = {};
    // Bars: tell the change from the first series above those of the others.
    bool changes = false;
    Unit unit = Unit::kAuto;
    std::string measure = {}; // what the values are in, if not in bytes: "ms"
};

enum class Ground : std::uint8_t {
    kWhite, // a file of its own, with the title in it
    kPage,  // part of a page, which has the title
};

// What gnuplot is given. Names are data there and never commands.
std::string gnuplot_script(const Figure &figure, Ground ground);

// The SVG. Throws Failure when gnuplot is missing or fails.
std::string draw(const Figure &figure, Ground ground);

} // namespace upm::tool::pss

#endif // UPM_TOOLS_PSS_REPORT_SHOW_PLOT_HPP
