// SPDX-License-Identifier: MIT
#include "tools/pss-report/options.hpp"

#include "tools/common/command_line.hpp"
#include "tools/common/errors.hpp"

#include <fmt/format.h>
#include <memory>

namespace upm::tool::pss {

namespace {

using Strings = std::vector<std::string>;

enum class Takes : std::uint8_t { kNothing, kText, kList };

struct OptionRow {
    const char *group;
    const char *names;
    const char *help;
    Takes takes = Takes::kNothing;
    const char *value = ""; // what help calls it
};

constexpr OptionRow kOptions[] = {
    {"Selection", "p,pid", "these, separated by commas", Takes::kList, "PID"},
    {"Selection", "name", "those called so (shell pattern)", Takes::kList, "NAME"},
    {"Selection", "cgroup", "those in this cgroup or below (shell pattern)", Takes::kList, "PATH"},
    {"Selection", "user", "those of this user (name or number)", Takes::kList, "USER"},

    {"View", "by", "a row for each process, cgroup, container, pod, user or command", Takes::kText,
     "GROUP"},
    {"View", "m,mappings", "split each row by what mappings are used for"},
    {"View", "exact", "count merged pages by their frames (root)"},
    {"View", "sort", "by this column", Takes::kText, "FIELD"},
    {"View", "r,reverse", "the other way round"},
    {"View", "fields", "these columns, separated by commas", Takes::kText, "LIST"},
    {"View", "limit", "this many rows", Takes::kText, "ROWS"},
    {"View", "units", "auto, B, K, M, G or pages", Takes::kText, "UNIT"},

    {"View", "e,estimate", "read and hash the memory: what would merging save?"},
    {"View", "layout", "and what it would save with equal addresses (upm run --layout keyed)"},
    {"View", "max-cpu", "use so much of one processor for that", Takes::kText, "PERCENT"},
    {"View", "max-memory", "and so much memory (256M); K, M, G", Takes::kText, "BYTES"},

    {"Output", "json", "one JSON document"},
    {"Output", "csv", "comma-separated values"},
    {"Output", "prom", "Prometheus's text format"},
    {"Output", "o,output", "write this file, whole or not at all", Takes::kText, "FILE"},
    {"Output", "color", "auto, always or never", Takes::kText, "WHEN"},
    {"Output", "t,top", "live view, with keys (needs a terminal)"},
    {"Output", "w,watch", "a report each so many seconds; on a terminal, --top", Takes::kText,
     "SECONDS"},
    {"Output", "count", "end after so many reports", Takes::kText, "REPORTS"},

    {"Recording", "record", "add what was read to a file", Takes::kText, "FILE"},
    {"Recording", "tag", "a name for this snapshot", Takes::kText, "TEXT"},
    {"Recording", "n", "how many copies of the function run now", Takes::kText, "NUMBER"},

    {"Recording", "diff", "compare the last snapshots of two files: --diff A B", Takes::kList,
     "FILE"},

    {"Figures", "plot", "draw a figure of that (SVG, by gnuplot)", Takes::kText, "FILE"},
    {"Figures", "html", "write a page with figures and tables", Takes::kText, "FILE"},
    {"Figures", "draw", "what this file describes (JSON), in place of memory", Takes::kText,
     "FILE"},
    {"Figures", "over", "of recordings: label, n or time (auto)", Takes::kText, "AXIS"},
    {"Figures", "total", "sums, in place of means of the copies"},
    {"Figures", "title", "of the figure and of the page", Takes::kText, "TEXT"},

    {"Other", "root", "read proc, sys and etc below this folder", Takes::kText, "DIR"},
    {"Other", "h,help", "print this help"},
    {"Other", "V,version", "print the version"},
};

cxxopts::Options description() {
    cxxopts::Options options(
        "pss-report", "Where the memory of processes goes, and what merging saves.\n"
                      "What came by a load and what by a merge look the same here, and what\n"
                      "was trimmed is gone: upm status tells load, merge and trim apart.\n");
    options.custom_help("[OPTION...] [RECORDING...]");
    for (const OptionRow &row : kOptions) {
        std::shared_ptr<cxxopts::Value> value = cxxopts::value<bool>();
        if (row.takes == Takes::kText)
            value = cxxopts::value<std::string>();
        else if (row.takes == Takes::kList)
            value = cxxopts::value<Strings>();
        options.add_options(row.group)(row.names, row.help, value, row.value);
    }
    options.add_options()("recordings", "", cxxopts::value<Strings>());
    options.parse_positional("recordings");
    options.positional_help("");
    return options;
}

void parse_pids(const Strings &lists, std::set<int> &pids) {
    for (const std::string &list : lists)
        for (const std::string &text : split(list, ',')) {
            const auto pid = parse_integer<int>(text);
            if (!pid || *pid <= 0)
                throw UsageError(fmt::format("--pid: '{}' is no process id", printable(text)));
            pids.insert(*pid);
        }
}

Color parse_color(const std::string &text) {
    if (text == "auto")
        return Color::kAuto;
    if (text == "always")
        return Color::kAlways;
    if (text == "never")
        return Color::kNever;
    throw UsageError(
        fmt::format("--color: '{}' is not one of auto, always, never", printable(text)));
}

Format parse_format(const CommandLine &given) {
    const bool json = given.has("json");
    const bool csv = given.has("csv");
    const bool prometheus = given.has("prom");
    if (json + csv + prometheus > 1)
        throw UsageError("--json, --csv and --prom exclude each other");
    return json         ? Format::kJson
           : csv        ? Format::kCsv
           : prometheus ? Format::kPrometheus
                        : Format::kTable;
}

void take_selection(const CommandLine &given, Options &options) {
    Filter &filter = options.collect.filter;
    parse_pids(given.list("pid"), filter.pids);
    filter.names = given.list("name");
    filter.cgroups = given.list("cgroup");
    filter.users = given.list("user");
    options.collect.mappings = given.has("mappings");
    options.collect.exact = given.has("exact");
    options.root = given.text("root");
}

void take_view(const CommandLine &given, Options &options) {
    options.by = parse_group(given.text("by", "process"));
    options.sort = given.text("sort", "pss");
    check_field("--sort", options.sort);
    options.reverse = given.has("reverse");
    if (given.has("fields"))
        options.fields = split(given.text("fields"), ',');
    for (const std::string &field : options.fields)
        check_field("--fields", field);
    options.limit = given.number("limit", 0);
    options.unit = parse_unit(given.text("units", "auto"));
    options.format = parse_format(given);
    options.color = parse_color(given.text("color", "auto"));
    options.output = given.text("output", "-");
}

void take_estimate(const CommandLine &given, Options &options) {
    options.estimate = given.has("estimate");
    options.layout = given.has("layout");
    if (options.layout && !options.estimate)
        throw UsageError("--layout belongs to --estimate");
    options.max_cpu = given.real("max-cpu", 100, 1, 100);
    if (given.has("max-memory"))
        options.max_memory =
            bytes_of_option("max-memory", given.text("max-memory"), std::uint64_t{1} << 20U);
    if (!options.estimate)
        return;
    if (options.format != Format::kTable && options.format != Format::kJson)
        throw UsageError("--estimate prints a table or --json");
    if (!options.root.empty())
        throw UsageError("--estimate reads the memory of real processes: not with --root");
}

void take_runs(const CommandLine &given, Options &options) {
    options.top = given.has("top");
    options.watch = given.real("watch", 0, 0.01, 86400);
    if (options.top && (options.estimate || options.format != Format::kTable ||
                        options.output != "-" || given.has("count")))
        throw UsageError("--top goes to a terminal: without --estimate, --json, --csv, --prom, "
                         "--output, --count");
    options.count = given.number("count", 0, 1);
    if (options.count != 0 && options.watch == 0)
        throw UsageError("--count needs --watch");
    options.record = given.text("record");
    options.tag = given.text("tag");
    if (given.has("n"))
        options.n = static_cast<std::int64_t>(given.number("n", 0));
}

void take_recordings(const CommandLine &given, Options &options) {
    options.diff = given.list("diff");
    options.recordings = given.list("recordings");
    // --diff A B: the second is no value of the option.
    if (options.diff.size() == 1 && options.recordings.size() == 1)
        options.diff.push_back(options.recordings[0]), options.recordings.clear();
    const bool diff = !options.diff.empty(), recordings = !options.recordings.empty();
    if (diff && (options.diff.size() != 2 || recordings))
        throw UsageError("--diff takes two recordings, before and after");
    if ((diff || recordings) && options.format != Format::kTable && options.format != Format::kJson)
        throw UsageError("of recordings there are a table and --json");
    if ((diff || recordings) &&
        (options.estimate || options.top || options.watch != 0 || !options.record.empty()))
        throw UsageError(
            "--estimate, --top, --watch and --record need processes, and no recordings");
}

void take_figures(const CommandLine &given, Options &options) {
    options.draw = given.text("draw");
    options.plot = given.text("plot");
    options.html = given.text("html");
    options.axis = parse_axis(given.text("over", "auto"));
    options.total = given.has("total");
    options.title = given.text("title");
    if (!options.plot.empty() && !options.plot.ends_with(".svg"))
        throw UsageError(fmt::format("--plot: '{}' does not end in .svg, which is what is drawn",
                                     printable(options.plot)));
    const bool any = !options.plot.empty() || !options.html.empty();
    const bool other = !options.recordings.empty() || !options.diff.empty() || options.estimate ||
                       options.top || options.watch != 0 || !options.record.empty();
    if (!options.draw.empty() && (other || options.plot.empty() == options.html.empty()))
        throw UsageError("--draw takes --plot for a figure or --html for a page, and nothing else");
    if (any && !options.diff.empty())
        throw UsageError("--plot and --html take the recordings as arguments, without --diff");
    if (given.has("over") && options.recordings.empty() && options.watch == 0 && !options.top)
        throw UsageError("--over needs recordings, --watch or --top");
}

} // namespace

Options parse_options(const std::vector<std::string> &arguments) {
    std::vector<const char *> argv = {"pss-report"};
    for (const std::string &argument : arguments)
        argv.push_back(argument.c_str());
    Options options;
    cxxopts::Options known = description();
    const CommandLine given(known, static_cast<int>(argv.size()), argv.data());
    if (given.has("help")) {
        fmt::print("{}",
                   known.help({"Selection", "View", "Output", "Recording", "Figures", "Other"}));
        options.help = true;
        return options;
    }
    if (given.has("version")) {
        fmt::print("pss-report {}\n", UPM_VERSION);
        options.version = true;
        return options;
    }
    take_selection(given, options);
    take_view(given, options);
    take_estimate(given, options);
    take_runs(given, options);
    take_recordings(given, options);
    take_figures(given, options);
    return options;
}

} // namespace upm::tool::pss
