// SPDX-License-Identifier: MIT
#include "tools/pss-report/show/top.hpp"

#include "tools/common/text.hpp"

#include <algorithm>
#include <array>
#include <fmt/format.h>

namespace upm::tool::pss {

namespace {

using Look = TopLine::Look;

constexpr double kFastest = 0.25, kSlowest = 60; // seconds between looks
constexpr std::size_t kLinesAround = 6;          // that are no rows of the table
constexpr std::array<Unit, 4> kUnits = {Unit::kAuto, Unit::kMib, Unit::kKib, Unit::kPages};

struct KeyHelp {
    const char *key;
    const char *brief; // in the last line of the screen; null: not there
    const char *help;
};
constexpr KeyHelp kHelp[] = {
    {"q", "quit", "leave"},
    {"<  >", "sort", "sort by the column to the left or right (also the arrow keys)"},
    {"r", "reverse", "the other way round"},
    {"g", "group", "by process, cgroup, container, user, command, pod (G: back)"},
    {"/", "filter", "only what has a text in its name, cgroup, container or user; Esc: all"},
    {"m", "mappings", "split rows by what mappings are used for"},
    {"u", "units", "auto, MiB, KiB, pages"},
    {"space", "pause", "hold still, and go on"},
    {"+  -", "pace", "look more often, or less"},
    {"?", "help", "this text, and back"},
    {"arrows, PgUp, PgDn, Home, End", nullptr, "move through the rows"},
};

std::string key_line() {
    std::string line;
    for (const KeyHelp &help : kHelp)
        if (help.brief != nullptr)
            line += fmt::format("{}{} {}", line.empty() ? "" : "   ", help.key, help.brief);
    return line;
}

void append_utf8(std::string &text, char32_t c) {
    const auto add = [&](char32_t byte) { text += static_cast<char>(byte); };
    if (c < 0x80) {
        add(c);
    } else if (c < 0x800) {
        add(0xc0 | c >> 6U), add(0x80 | (c & 0x3fU));
    } else if (c < 0x10000) {
        add(0xe0 | c >> 12U), add(0x80 | (c >> 6U & 0x3fU)), add(0x80 | (c & 0x3fU));
    } else {
        add(0xf0 | c >> 18U), add(0x80 | (c >> 12U & 0x3fU));
        add(0x80 | (c >> 6U & 0x3fU)), add(0x80 | (c & 0x3fU));
    }
}

std::string lower(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
    return text;
}

Look look_of(const std::string &tint) {
    return tint == "1"    ? Look::kBold
           : tint == "2"  ? Look::kDim
           : tint == "32" ? Look::kGood
                          : Look::kPlain;
}

std::string merger(const char *name, const std::map<std::string, std::int64_t> &values) {
    const auto value = [&](const char *key) {
        const auto found = values.find(key);
        return found == values.end() ? 0 : found->second;
    };
    return fmt::format("{} {} pages shared by {}", name, value("pages_shared"),
                       value("pages_sharing"));
}

// Memory of the machine, and what its mergers say.
std::string machine(const Snapshot &snapshot) {
    const System &system = snapshot.system;
    std::string line =
        fmt::format("memory {}, available {}", format_bytes(system.mem_total, Unit::kAuto),
                    format_bytes(system.mem_available, Unit::kAuto));
    if (!system.ksm.empty())
        line += ";  " + merger("KSM", system.ksm);
    if (!system.upm.empty())
        line += ";  " + merger("UPM", system.upm);
    return line;
}

std::string missing(const Skipped &skipped) {
    std::string line;
    const auto add = [&](std::uint64_t count, const char *what) {
        if (count != 0)
            line +=
                fmt::format("{}{} {}", line.empty() ? "not in these figures: " : ", ", count, what);
    };
    add(skipped.unreadable.size(), "unreadable (try as root)");
    add(skipped.vanished, "ended meanwhile");
    add(skipped.zombies, "zombies");
    return line;
}

} // namespace

std::vector<std::string> Top::fields() const {
    return options_.fields.empty() ? default_fields(options_.by) : options_.fields;
}

bool Top::key(char32_t key) {
    if (editing_) {
        edit_filter(key);
        return true;
    }
    if (key == 'q' || key == 'Q')
        return false;
    if (!change_view(key))
        scroll(key);
    return true;
}

void Top::edit_filter(char32_t key) {
    first_ = 0;
    if (key == kKeyEnter) {
        editing_ = false;
    } else if (key == kKeyEscape) {
        editing_ = false;
        filter_.clear();
    } else if (key == kKeyBackspace) {
        while (!filter_.empty() && (static_cast<unsigned char>(filter_.back()) & 0xc0U) == 0x80U)
            filter_.pop_back();
        if (!filter_.empty())
            filter_.pop_back();
    } else if (key >= ' ' && key < kKeyUp && key != 0x7f) {
        append_utf8(filter_, key);
    }
}

void Top::scroll(char32_t key) {
    const std::size_t back = key == kKeyUp ? 1 : key == kKeyPageUp ? page_ : 0;
    first_ -= std::min(first_, back);
    first_ += key == kKeyDown ? 1 : key == kKeyPageDown ? page_ : 0;
    if (key == kKeyHome)
        first_ = 0;
    else if (key == kKeyEnd)
        first_ = SIZE_MAX / 2; // the next drawing knows the end
}

void Top::next_sort(bool forwards) {
    const std::vector<std::string> columns = fields();
    const auto found = std::find(columns.begin(), columns.end(), options_.sort);
    const auto size = columns.size();
    const auto at = static_cast<std::size_t>(found - columns.begin());
    options_.sort = columns[found == columns.end() ? 0 : (at + (forwards ? 1 : size - 1)) % size];
    first_ = 0;
}

// Whether the key is one of these.
bool Top::change_view(char32_t key) {
    const std::size_t groups = kGroupNames.size();
    const auto by = static_cast<std::size_t>(options_.by);
    switch (key) {
    case '<':
    case kKeyLeft:
        return next_sort(false), true;
    case '>':
    case kKeyRight:
        return next_sort(true), true;
    case 'r':
        return options_.reverse = !options_.reverse, true;
    case 'g':
        return options_.by = static_cast<GroupBy>((by + 1) % groups), first_ = 0, true;
    case 'G':
        return options_.by = static_cast<GroupBy>((by + groups - 1) % groups), first_ = 0, true;
    case '/':
        return editing_ = true;
    case kKeyEscape:
        return help_ = false, filter_.clear(), true;
    case 'm':
        return options_.mappings = !options_.mappings, true;
    case 'u': {
        const auto *const at = std::find(kUnits.begin(), kUnits.end(), options_.unit);
        const auto next = static_cast<std::size_t>(at - kUnits.begin()) + 1;
        return options_.unit = kUnits[next % kUnits.size()], true;
    }
    case ' ':
        return paused_ = !paused_, true;
    case '+':
        return options_.seconds = std::max(kFastest, options_.seconds / 2), true;
    case '-':
        return options_.seconds = std::min(kSlowest, options_.seconds * 2), true;
    case '?':
    case 'h':
        return help_ = !help_, true;
    default:
        return false;
    }
}

bool Top::shown(const Process &process) const {
    const std::string wanted = lower(filter_);
    const auto has = [&](const std::string &text) {
        return lower(text).find(wanted) != std::string::npos;
    };
    return has(process.command) || has(process.cgroup) || has(process.container.id) ||
           has(process.container.runtime) || has(process.user);
}

std::string Top::status(const Snapshot &snapshot, const Report &report) const {
    const Usage &total = report.total.usage;
    const auto text = [&](std::uint64_t bytes) { return format_bytes(bytes, Unit::kAuto); };
    return fmt::format("pss-report  {}  every {:.3g} s{}  {} process{} in {} row{} by {}  RSS {}  "
                       "PSS {}  saved {}",
                       snapshot.time.size() > 19 ? snapshot.time.substr(11, 8) : snapshot.time,
                       options_.seconds, paused_ ? " (paused)" : "", report.total.processes,
                       report.total.processes == 1 ? "" : "es", report.rows.size(),
                       report.rows.size() == 1 ? "" : "s", name_of(options_.by), text(total.rss),
                       text(total.pss), text(total.saved));
}

std::vector<TopLine> Top::screen(const Snapshot &snapshot, std::size_t width, std::size_t height) {
    Snapshot chosen = snapshot;
    std::erase_if(chosen.processes, [&](const Process &process) { return !shown(process); });
    Report report = make_report(chosen, options_.by);
    sort_rows(report.rows, options_.sort, options_.reverse);
    std::vector<TopLine> lines;
    lines.push_back({status(snapshot, report), Look::kBold});
    lines.push_back({machine(snapshot), Look::kPlain});
    if (editing_ || !filter_.empty())
        lines.push_back({fmt::format("filter: {}{}", printable(filter_), editing_ ? "_" : ""),
                         editing_ ? Look::kBold : Look::kPlain});
    else
        lines.push_back({missing(snapshot.skipped), Look::kDim});
    if (help_) {
        lines.push_back({"KEYS", Look::kTitle});
        for (const KeyHelp &help : kHelp)
            lines.push_back({fmt::format("  {:30}{}", help.key, help.help), Look::kPlain});
    } else {
        const Style style{.unit = options_.unit,
                          .width = width,
                          .limit = options_.limit,
                          .sorted_by = options_.sort,
                          .reverse = options_.reverse};
        const Table table = table_of(report, chosen, fields(), style);
        const std::vector<std::string> text = split(table.text(style.width, style.color), '\n');
        const std::size_t rows = table.lines().size(); // the sum among them
        page_ = height > kLinesAround ? height - kLinesAround + 1 : 1;
        first_ = std::min(first_, rows > page_ ? rows - page_ : 0);
        lines.push_back({text[0], Look::kTitle});
        for (std::size_t i = first_; i < std::min(rows, first_ + page_); ++i)
            lines.push_back({text[i + 1], look_of(table.lines()[i].tint)});
    }
    lines.resize(height == 0 ? 0 : height - 1);
    if (height != 0)
        lines.push_back({key_line(), Look::kKeys});
    for (TopLine &line : lines)
        line.text = shortened(line.text, width);
    return lines;
}

} // namespace upm::tool::pss
