// SPDX-License-Identifier: MIT
//
// What the command does with its options.
#include "tools/pss-report/command.hpp"

#include "tools/pss-report/collect.hpp"
#include "tools/pss-report/diff.hpp"
#include "tools/pss-report/errors.hpp"
#include "tools/pss-report/estimate.hpp"
#include "tools/pss-report/options.hpp"
#include "tools/pss-report/output.hpp"
#include "tools/pss-report/recording.hpp"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <thread>
#include <unistd.h>

namespace upm::pss {

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

std::string estimated(const Options &options, const Snapshot &snapshot, Root &root) {
    EstimateOptions how;
    how.by = options.by;
    how.max_cpu = options.max_cpu;
    how.max_memory = options.max_memory;
    how.progress = ::isatty(STDERR_FILENO) != 0;
    const Estimate result = estimate(root, snapshot, how);
    if (options.format == Format::kTable)
        return to_table(result, style_of(options)) + notes(snapshot, style_of(options));
    Json json = to_json(make_report(snapshot, options.by), snapshot, options.limit);
    json["estimate"] = to_json(result);
    return dump(json) + "\n";
}

std::string rendered(const Options &options, const Snapshot &snapshot, Root &root) {
    if (options.estimate)
        return estimated(options, snapshot, root);
    Report report = make_report(snapshot, options.by);
    sort_rows(report.rows, options.sort, options.reverse);
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
    return to_table(report, snapshot, fields, style_of(options));
}

int report(const Options &options) {
    CollectOptions collect = options.collect;
    collect.filter.without.insert(::getpid()); // it would measure itself
    Collector collector(Root(options.root), collect);
    for (std::uint64_t done = 1;; ++done) {
        Snapshot snapshot = collector.collect();
        snapshot.tag = options.tag;
        snapshot.n = options.n;
        if (!options.record.empty())
            record(options.record, snapshot);
        write_atomically(options.output, rendered(options, snapshot, collector.root()));
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

int dispatch(const std::vector<std::string> &arguments) {
    const Options options = parse_options(arguments);
    if (options.help || options.version)
        return kSuccess;
    if (!options.diff.empty())
        return compare(options);
    return report(options);
}

} // namespace

int run_command(const std::vector<std::string> &arguments) {
    try {
        return dispatch(arguments);
    } catch (const UsageError &error) {
        fmt::print(stderr, "pss-report: {}\nTry 'pss-report --help'.\n", error.what());
        return kUsage;
    } catch (const std::exception &error) {
        fmt::print(stderr, "pss-report: {}\n", error.what());
        return kFailed;
    }
}

} // namespace upm::pss
