// SPDX-License-Identifier: MIT
//
// What the command does with its options.
#include "tools/pss-report/command.hpp"

#include "tools/common/errors.hpp"
#include "tools/common/files.hpp"
#include "tools/pss-report/options.hpp"
#include "tools/pss-report/read/collect.hpp"
#include "tools/pss-report/read/recording.hpp"
#include "tools/pss-report/read/scan.hpp"
#include "tools/pss-report/show/diff.hpp"
#include "tools/pss-report/show/document.hpp"
#include "tools/pss-report/show/estimate_output.hpp"
#include "tools/pss-report/show/html.hpp"
#include "tools/pss-report/show/live.hpp"
#include "tools/pss-report/show/output.hpp"
#include "tools/pss-report/show/record.hpp"
#include "tools/pss-report/show/series_output.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fmt/format.h>
#include <optional>
#include <sys/ioctl.h>
#include <thread>
#include <unistd.h>

namespace upm::tool::pss {

namespace {

bool to_terminal(const Options &options) {
    return options.output == "-" && ::isatty(STDOUT_FILENO) != 0;
}

Style style_of(const Options &options) {
    Style style;
    style.unit = options.unit;
    style.limit = options.limit;
    const bool terminal = to_terminal(options);
    const char *const no_color = std::getenv("NO_COLOR");
    style.color = options.color == Color::kAlways || (options.color == Color::kAuto && terminal &&
                                                      (no_color == nullptr || *no_color == '\0'));
    winsize size{};
    if (terminal && ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0)
        style.width = size.ws_col;
    return style;
}

SeriesOptions series_options(const Options &options) {
    SeriesOptions how;
    how.by = options.by;
    how.axis = options.axis;
    how.total = options.total;
    how.fields = options.fields;
    how.title = options.title;
    how.unit = options.unit;
    return how;
}

Estimate estimate_of(const Options &options, const Snapshot &snapshot, Proc &proc) {
    EstimateOptions how;
    how.by = options.by;
    how.max_cpu = options.max_cpu;
    how.max_memory = options.max_memory;
    how.layout = options.layout;
    how.progress = ::isatty(STDERR_FILENO) != 0;
    return estimate(proc, snapshot, how);
}

bool in_group(const Container &container, GroupBy by) {
    return by == GroupBy::kPod ? !container.pod.empty() : !container.runtime.empty();
}

// Nothing, or what to say in place of one row "(none)", or of a figure of nothing.
std::string nobody_there(const Report &report, bool all_read) {
    const bool containers = report.by == GroupBy::kContainer || report.by == GroupBy::kPod;
    if (!containers || std::any_of(report.rows.begin(), report.rows.end(), [&](const Row &row) {
            return in_group(row.container, report.by);
        }))
        return "";
    return fmt::format("no process {}is in a {}: --by cgroup or --by command tells others apart",
                       all_read ? "" : "that can be read ", name_of(report.by));
}

std::string rendered(const Options &options, const Report &report, const Snapshot &snapshot,
                     const Estimate *estimate) {
    const Style style = style_of(options);
    if (estimate != nullptr && options.format == Format::kTable)
        return table_of(*estimate, style).text(style.width, style.color) +
               summary(*estimate, style) + notes(snapshot, style);
    if (estimate != nullptr) {
        Json json = to_json(report, snapshot, options.limit);
        json["estimate"] = to_json(*estimate);
        return dump(json) + "\n";
    }
    switch (options.format) {
    case Format::kJson:
        return dump(to_json(report, snapshot, options.limit)) + "\n";
    case Format::kCsv:
        return to_csv(report, snapshot, options.limit);
    case Format::kPrometheus:
        return to_prometheus(report, snapshot);
    case Format::kTable:
        break;
    }
    const std::vector<std::string> fields =
        options.fields.empty() ? default_fields(options.by) : options.fields;
    std::string table = to_table(report, snapshot, fields, style);
    if (const std::string why = nobody_there(report, snapshot.skipped.unreadable.empty());
        !why.empty())
        table += why + "\n";
    return table;
}

// Of recordings, or of what --watch saw.
void write_figures(const Options &options, const std::vector<Series> &series) {
    if (options.plot.empty() && options.html.empty())
        return;
    // add_snapshot() has left out who is in no group.
    const bool somebody = std::any_of(series.begin(), series.end(), [](const Series &one) {
        return !one.last.processes.empty();
    });
    const bool all_read = std::all_of(series.begin(), series.end(), [](const Series &one) {
        return one.last.skipped.unreadable.empty();
    });
    if (!somebody)
        if (const std::string why =
                nobody_there({.by = options.by, .rows = {}, .total = {}}, all_read);
            !why.empty())
            throw Failure(why);
    const SeriesOptions how = series_options(options);
    if (!options.plot.empty())
        write_atomically(options.plot, draw(figure_of(series, how), Ground::kWhite));
    if (!options.html.empty())
        write_atomically(options.html, html_report(series, how, options.limit));
}

void write_figures(const Options &options, const Report &report, const Snapshot &snapshot,
                   const Estimate *estimate) {
    if (options.plot.empty() && options.html.empty())
        return;
    if (const std::string why = nobody_there(report, snapshot.skipped.unreadable.empty());
        !why.empty())
        throw Failure(why);
    const SeriesOptions how = series_options(options);
    if (!options.plot.empty())
        write_atomically(options.plot,
                         draw(estimate != nullptr ? figure_of(*estimate, how)
                                                  : figure_of(report, options.limit, how),
                              Ground::kWhite));
    if (!options.html.empty())
        write_atomically(options.html, html_report(report, snapshot, estimate, how, options.limit));
}

// Of every snapshot of a series: what --tag, --record, --plot and --html say.
class Keeper {
  public:
    explicit Keeper(const Options &options) : options_(options) {}

    void operator()(Snapshot &snapshot) {
        snapshot.tag = options_.tag;
        snapshot.n = options_.n;
        if (!options_.record.empty())
            record(options_.record, snapshot);
        if (!series_wanted() || (options_.plot.empty() && options_.html.empty()))
            return;
        add_snapshot(series_, "now", snapshot, options_.by);
        write_figures(options_, series_);
    }
    // Else the figures are of single snapshots.
    [[nodiscard]] bool series_wanted() const {
        return (options_.watch != 0 || options_.top) && !options_.estimate;
    }

  private:
    const Options &options_;
    std::vector<Series> series_;
};

// --watch by a person who will press keys.
bool watched_live(const Options &options) {
    return options.watch != 0 && options.count == 0 && options.format == Format::kTable &&
           !options.estimate && to_terminal(options) && ::isatty(STDIN_FILENO) != 0;
}

int live(const Options &options, Collector &collector) {
    if (::isatty(STDIN_FILENO) == 0 || ::isatty(STDOUT_FILENO) == 0)
        throw Failure("--top needs a terminal as standard input and output");
    TopOptions how;
    how.by = options.by;
    how.sort = options.sort;
    how.reverse = options.reverse;
    how.fields = options.fields;
    how.unit = options.unit;
    how.limit = options.limit;
    how.mappings = options.collect.mappings;
    how.seconds = options.watch == 0 ? how.seconds : options.watch;
    Keeper keep(options);
    const auto look = [&](bool mappings) {
        collector.read_mappings(mappings);
        Snapshot snapshot = collector.collect();
        keep(snapshot);
        return snapshot;
    };
    watch_live(look, how, style_of(options).color);
    return kSuccess;
}

int report(const Options &options) {
    CollectOptions collect = options.collect;
    collect.filter.without.insert(::getpid()); // it would measure itself
    Collector collector(Root(options.root), collect);
    if (options.top || watched_live(options))
        return live(options, collector);
    Keeper keep(options);
    for (std::uint64_t done = 1;; ++done) {
        Snapshot snapshot = collector.collect();
        keep(snapshot);
        Report report = make_report(snapshot, options.by);
        sort_rows(report.rows, options.sort, options.reverse);
        std::optional<Estimate> estimate;
        if (options.estimate)
            estimate = estimate_of(options, snapshot, collector.proc());
        const Estimate *const found = estimate ? &*estimate : nullptr;
        write_atomically(options.output, rendered(options, report, snapshot, found));
        if (!keep.series_wanted())
            write_figures(options, report, snapshot, found);
        if (options.watch == 0 || done == options.count)
            return kSuccess;
        if (options.format == Format::kTable)
            write_atomically(options.output, "\n");
        std::this_thread::sleep_for(std::chrono::duration<double>(options.watch));
    }
}

int compare(const Options &options) {
    const Snapshot before = read_recording(options.diff[0]).back();
    const Snapshot after = read_recording(options.diff[1]).back();
    write_atomically(options.output,
                     options.format == Format::kJson
                         ? dump(diff_json(before, after, options.by)) + "\n"
                         : diff_table(before, after, options.by, style_of(options)));
    return kSuccess;
}

int side_by_side(const Options &options) {
    const std::vector<Series> series =
        read_series(options.recordings, options.collect.filter, options.by);
    const SeriesOptions how = series_options(options);
    const Style style = style_of(options);
    write_figures(options, series);
    write_atomically(options.output,
                     options.format == Format::kJson
                         ? dump(to_json(series, how)) + "\n"
                         : series_table(series, how).text(style.width, style.color));
    return kSuccess;
}

int draw_described(const Options &options) {
    Json json;
    try {
        json = Json::parse(read_file(options.draw));
    } catch (const Json::exception &error) {
        throw Failure(fmt::format("{}: {}", printable(options.draw), printable(error.what())));
    }
    if (!options.plot.empty())
        write_atomically(options.plot, draw(figure_from_json(json), Ground::kWhite));
    else
        write_atomically(options.html, page_from_json(json));
    return kSuccess;
}

int dispatch(const std::vector<std::string> &arguments) {
    const Options options = parse_options(arguments);
    if (options.help || options.version)
        return kSuccess;
    if (!options.draw.empty())
        return draw_described(options);
    if (!options.diff.empty())
        return compare(options);
    if (!options.recordings.empty())
        return side_by_side(options);
    return report(options);
}

} // namespace

int run_command(const std::vector<std::string> &arguments) {
    try {
        return dispatch(arguments);
    } catch (const UsageError &error) {
        fmt::print(stderr, "pss-report: {}\nTry 'pss-report --help'.\n", printable(error.what()));
        return kUsage;
    } catch (const std::exception &error) {
        fmt::print(stderr, "pss-report: {}\n", printable(error.what()));
        return kFailed;
    }
}

} // namespace upm::tool::pss
