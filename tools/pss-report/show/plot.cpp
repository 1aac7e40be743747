// SPDX-License-Identifier: MIT
//
// gnuplot reads a script with the data in it from a memfd, so that nothing has to be
// written and read at once, and no shell sees a name that others chose.
#include "tools/pss-report/show/plot.hpp"

#include "tools/common/descriptor.hpp"
#include "tools/common/errors.hpp"
#include "tools/common/text.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

namespace upm::tool::pss {

namespace {

// Told apart by people who see fewer colours (Okabe and Ito, 2008), dark enough for
// white ground.
constexpr std::array<const char *, 6> kPalette = {"#7f8c99", "#0072b2", "#d55e00",
                                                  "#009e73", "#cc79a7", "#b8860b"};
constexpr std::size_t kMostMarked = 40; // points of a curve that are shown one by one

struct Scale {
    double divisor;
    std::string name;
};

Scale scale_of(const Figure &figure) {
    if (!figure.measure.empty())
        return {1, figure.measure};
    double most = 0;
    for (const Curve &curve : figure.curves)
        for (const auto &[x, bytes] : curve.points)
            most = std::max(most, bytes);
    switch (figure.unit) {
    case Unit::kBytes:
        return {1, "bytes"};
    case Unit::kKib:
        return {0x1p10, "KiB"};
    case Unit::kMib:
        return {0x1p20, "MiB"};
    case Unit::kGib:
        return {0x1p30, "GiB"};
    case Unit::kPages:
        return {static_cast<double>(::sysconf(_SC_PAGESIZE)), "pages"};
    case Unit::kAuto:
        break;
    }
    if (most >= 0x1p31)
        return {0x1p30, "GiB"};
    return most >= 0x1p20 ? Scale{0x1p20, "MiB"} : Scale{0x1p10, "KiB"};
}

// A string of a data block: there gnuplot gives a meaning to quotes and backslashes only.
// Backquotes would be commands elsewhere, and are not let through at all.
std::string quoted(std::string_view text) {
    std::string out = "\"";
    for (const char c : printable(text)) {
        if (c == '"' || c == '`')
            out += '\'';
        else if (c == '\\')
            out += "\\\\";
        else
            out += c;
    }
    return out + "\"";
}

std::string number(double value) {
    return fmt::format("{:.{}f}", value, std::abs(value) < 9.995 ? 2 : std::abs(value) < 999.5);
}

// " (-25 %)"; nothing if that rounds to nothing.
std::string change(double before, double after) {
    const double percent = std::round(100 * (after / before - 1));
    return percent == 0 ? "" : fmt::format(" ({:+.0f} %)", percent);
}

std::string header(const Figure &figure, Ground ground, const Scale &scale) {
    std::string out =
        fmt::format("set encoding utf8\nset terminal svg size 760,430 dynamic enhanced rounded "
                    "font \"Helvetica,Arial,sans-serif,14\" {}\n",
                    ground == Ground::kWhite ? "background \"#ffffff\"" : "");
    // Texts come from a block of data, the only place where any byte may stand.
    out += fmt::format(
        "$text << END_OF_BLOCK\n{} {} {}\nEND_OF_BLOCK\n", quoted(figure.title),
        quoted(figure.x_title),
        quoted(figure.y_title.empty() ? scale.name : scale.name + " " + figure.y_title));
    out += "title = \"\"; x_title = \"\"; y_title = \"\"\n"
           "stats $text using (title = strcol(1), x_title = strcol(2), "
           "y_title = strcol(3), 0) nooutput\n"
           // An empty line, else a key of several lines touches the axis's name.
           "if (strlen(x_title) > 0) { x_title = x_title . \"\\n \" }\n";
    if (ground == Ground::kWhite)
        out += "set title title noenhanced font \",17\"\n";
    out += "set xlabel x_title noenhanced\nset ylabel y_title noenhanced\n"
           "set border 3 linecolor \"#808080\"\nset tics nomirror textcolor \"#404040\"\n"
           "set grid ytics linecolor \"#d8d8d8\" linetype 1 linewidth 0.7\n"
           "set key below center horizontal noenhanced reverse Left samplen 2 width 1\n"
           "set style fill solid 1 noborder\nset yrange [0:*]\nset offsets 0, 0, graph 0.08, 0\n";
    return out;
}

// What stands above a bar.
std::string label_of(const Figure &figure, std::size_t curve, double x, double bytes,
                     const Scale &scale) {
    std::string label = number(bytes / scale.divisor);
    const auto &first = figure.curves[0].points;
    const auto same =
        std::find_if(first.begin(), first.end(), [&](const auto &p) { return p.first == x; });
    if (figure.changes && curve != 0 && same != first.end() && same->second > 0)
        label += change(same->second, bytes);
    return label;
}

// Returns true if labels beside each other would touch.
bool labels_touch(const Figure &figure, const Scale &scale) {
    constexpr double kWidth = 660; // of the plot, of 760 pixels
    constexpr double kLetter = 8;  // of a label's font, where Helvetica is a wide one
    std::size_t longest = 0;
    for (std::size_t i = 0; i < figure.curves.size(); ++i)
        for (const auto &[x, bytes] : figure.curves[i].points)
            longest = std::max(longest, label_of(figure, i, x, bytes, scale).size());
    const auto bars = static_cast<double>(figure.categories.size() * figure.curves.size());
    return static_cast<double>(longest + 1) * kLetter > 0.8 * kWidth / std::max(bars, 1.0);
}

// Every series as a block: its title, then lines of x, height, category and label.
std::string blocks(const Figure &figure, const Scale &scale) {
    std::string out;
    const double width = 0.8 / static_cast<double>(figure.curves.size());
    for (std::size_t i = 0; i < figure.curves.size(); ++i) {
        const Curve &curve = figure.curves[i];
        out += fmt::format("$curve{} << END_OF_BLOCK\n{}\n", i, quoted(curve.title));
        for (const auto &[x, bytes] : curve.points) {
            const double value = bytes / scale.divisor;
            if (figure.kind == FigureKind::kLines) {
                out += fmt::format("{} {}\n", x, value);
                continue;
            }
            const double centre = x + width * (static_cast<double>(i) -
                                               static_cast<double>(figure.curves.size() - 1) / 2);
            out += fmt::format("{} {} {}\n", centre, value,
                               quoted(label_of(figure, i, x, bytes, scale)));
        }
        out += "END_OF_BLOCK\n";
    }
    if (figure.kind == FigureKind::kBars) {
        out += "$category << END_OF_BLOCK\n";
        for (std::size_t i = 0; i < figure.categories.size(); ++i)
            out += fmt::format("{} {}\n", i, quoted(figure.categories[i]));
        out += "END_OF_BLOCK\n";
    }
    return out;
}

std::string bars(const Figure &figure, const Scale &scale) {
    const std::size_t bars = figure.categories.size() * figure.curves.size();
    std::vector<std::string> plots;
    for (std::size_t i = 0; i < figure.curves.size(); ++i)
        plots.push_back(
            fmt::format("$curve{} using 1:2:({}) with boxes linecolor \"{}\" title columnheader(1)",
                        i, 0.74 / static_cast<double>(figure.curves.size()),
                        kPalette[figure.curves[i].color % kPalette.size()]));
    // Above few bars there is room for their values; upright ones need it above them.
    const bool upright = labels_touch(figure, scale);
    for (std::size_t i = 0; bars <= 12 && i < figure.curves.size(); ++i)
        plots.push_back(fmt::format("$curve{} using 1:2:3 every ::1 with labels {} "
                                    "noenhanced font \",12\" notitle",
                                    i,
                                    upright ? "rotate by 90 left offset 0,0.5" : "offset 0,0.7"));
    // Nothing but the names below the clusters.
    plots.emplace_back("$category using 1:(0):xticlabels(2) with points pointtype 0 notitle");
    std::size_t longest = 0;
    for (const std::string &category : figure.categories)
        longest = std::max(longest, display_width(category));
    const bool turned = longest * figure.categories.size() > 80;
    return fmt::format("{}set xrange [-0.6:{}]\nset xtics scale 0 noenhanced{}\nplot {}\n",
                       upright ? "set offsets 0, 0, graph 0.3, 0\n" : "",
                       static_cast<double>(figure.categories.size()) - 0.4,
                       turned ? " rotate by -30" : "", fmt::join(plots, ", \\\n  "));
}

std::string lines(const Figure &figure) {
    std::vector<std::string> plots;
    for (std::size_t i = 0; i < figure.curves.size(); ++i) {
        const Curve &curve = figure.curves[i];
        const bool marked = curve.points.size() <= kMostMarked;
        plots.push_back(fmt::format(
            "$curve{} using 1:2 with {} linecolor \"{}\" linewidth 2 dashtype {} {}"
            "title columnheader(1)",
            i, marked ? "linespoints" : "lines", kPalette[curve.color % kPalette.size()],
            curve.dash, marked ? "pointtype 7 pointsize 0.5 " : ""));
    }
    return fmt::format("plot {}\n", fmt::join(plots, ", \\\n  "));
}

Descriptor memory_file(const char *name, std::string_view content = {}) {
    Descriptor file(::memfd_create(name, MFD_CLOEXEC));
    if (!file)
        throw Failure("memfd_create", errno);
    while (!content.empty()) {
        const ssize_t written = ::write(file.get(), content.data(), content.size());
        if (written < 0)
            throw Failure("memory for gnuplot", errno);
        content.remove_prefix(static_cast<std::size_t>(written));
    }
    (void)::lseek(file.get(), 0, SEEK_SET);
    return file;
}

std::string content_of(const Descriptor &file) {
    std::string text(static_cast<std::size_t>(::lseek(file.get(), 0, SEEK_END)), '\0');
    const ssize_t got = ::pread(file.get(), text.data(), text.size(), 0);
    text.resize(got < 0 ? 0 : static_cast<std::size_t>(got));
    return text;
}

std::string run_gnuplot(const std::string &script) {
    const Descriptor in = memory_file("script", script);
    const Descriptor out = memory_file("figure"), err = memory_file("errors");
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, in.get(), STDIN_FILENO);
    ::posix_spawn_file_actions_adddup2(&actions, out.get(), STDOUT_FILENO);
    ::posix_spawn_file_actions_adddup2(&actions, err.get(), STDERR_FILENO);
    // -d: without the user's own settings.
    std::array<std::string, 3> words = {"gnuplot", "-d", "-"};
    std::array<char *, 4> argv = {words[0].data(), words[1].data(), words[2].data(), nullptr};
    pid_t pid = 0;
    const int error = ::posix_spawnp(&pid, "gnuplot", &actions, nullptr, argv.data(), environ);
    ::posix_spawn_file_actions_destroy(&actions);
    if (error == ENOENT)
        throw Failure("figures are drawn by gnuplot, which is not installed "
                      "(Debian: apt-get install gnuplot-nox)");
    if (error != 0)
        throw Failure("gnuplot", error);
    int status = 0;
    while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    std::string figure = content_of(out);
    if (status != 0 || !figure.ends_with("</svg>\n\n"))
        throw Failure(fmt::format("gnuplot failed: {}", printable(trimmed(content_of(err)))));
    return figure;
}

} // namespace

std::string gnuplot_script(const Figure &figure, Ground ground) {
    const Scale scale = scale_of(figure);
    return header(figure, ground, scale) + blocks(figure, scale) +
           (figure.kind == FigureKind::kBars ? bars(figure, scale) : lines(figure));
}

std::string draw(const Figure &figure, Ground ground) {
    if (figure.curves.empty())
        throw Failure("there is nothing to draw: no process was chosen");
    return run_gnuplot(gnuplot_script(figure, ground));
}

} // namespace upm::tool::pss
