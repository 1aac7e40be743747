// SPDX-License-Identifier: MIT
#include "tools/pss-report/show/diff.hpp"

#include "tools/common/text.hpp"

#include <fmt/format.h>
#include <map>

namespace upm::tool::pss {

namespace {

std::int64_t change(std::uint64_t before, std::uint64_t after) {
    return static_cast<std::int64_t>(after - before);
}

std::string percent(std::uint64_t before, std::uint64_t after) {
    if (before == 0)
        return after == 0 ? "0.0%" : "new";
    return fmt::format("{:+.1f}%", 100 * static_cast<double>(change(before, after)) /
                                       static_cast<double>(before));
}

using Pairs = std::map<std::string, std::pair<Usage, Usage>>;

Pairs matched(const Snapshot &before, const Snapshot &after, GroupBy by) {
    Pairs pairs;
    for (const Process &process : before.processes)
        pairs[group_key(process, by)].first += process.usage;
    for (const Process &process : after.processes)
        pairs[group_key(process, by)].second += process.usage;
    return pairs;
}

Usage sum_of(const Snapshot &snapshot) {
    return make_report(snapshot, GroupBy::kUser).total.usage;
}

Json pair_json(const Usage &before, const Usage &after) {
    Json json = Json::object();
    for (const UsageField &field : kUsageFields) {
        const std::uint64_t a = before.*field.member, b = after.*field.member;
        json[field.name] = {{"before", a}, {"after", b}, {"change", change(a, b)}};
        if (a != 0)
            json[field.name]["percent"] =
                100 * static_cast<double>(change(a, b)) / static_cast<double>(a);
    }
    return json;
}

} // namespace

Gains gains(const Snapshot &before, const Snapshot &after) {
    const Usage a = sum_of(before), b = sum_of(after);
    Gains gains;
    gains.pss = change(b.pss, a.pss);
    // The module's counter runs since it was loaded, and is of the whole machine.
    const auto dropped = [](const Snapshot &snapshot) -> std::uint64_t {
        const auto found = snapshot.system.upm.find("pages_zero");
        return found == snapshot.system.upm.end() || found->second < 0
                   ? 0
                   : static_cast<std::uint64_t>(found->second) * snapshot.page_size;
    };
    gains.zero = change(a.ksm_zero, b.ksm_zero) + change(dropped(before), dropped(after));
    gains.merge = change(a.saved - a.ksm_zero, b.saved - b.ksm_zero);
    gains.trim = change(b.rss, a.rss) - gains.zero;
    gains.rest = gains.pss - gains.merge - gains.zero - gains.trim;
    return gains;
}

Table table_of(const Snapshot &before, const Snapshot &after, GroupBy by, const Style &style) {
    Table table({{"RSS"},
                 {"RSS'"},
                 {"CHANGE"},
                 {""},
                 {"PSS"},
                 {"PSS'"},
                 {"CHANGE"},
                 {""},
                 {"SAVED"},
                 {"SAVED'"},
                 {"GROUP", Table::Align::kLeft}});
    const auto add = [&](const Usage &a, const Usage &b, const std::string &name,
                         const char *tint) {
        const auto text = [&](std::uint64_t bytes) { return format_bytes(bytes, style.unit); };
        table.add({text(a.rss), text(b.rss), format_change(change(a.rss, b.rss), style.unit),
                   percent(a.rss, b.rss), text(a.pss), text(b.pss),
                   format_change(change(a.pss, b.pss), style.unit), percent(a.pss, b.pss),
                   text(a.saved), text(b.saved), printable(name)},
                  tint);
    };
    const Pairs pairs = matched(before, after, by);
    for (const auto &[key, usages] : pairs)
        add(usages.first, usages.second, key, "");
    add(sum_of(before), sum_of(after), fmt::format("total {}", pairs.size()), "1");
    return table;
}

std::string gains_text(const Snapshot &before, const Snapshot &after, const Style &style) {
    const Gains parts = gains(before, after);
    // Memory that became less has no plus before it; a part that became more has a minus.
    const bool less = parts.pss >= 0;
    const auto text = [&](std::int64_t bytes) {
        const std::string change = format_change(less ? bytes : -bytes, style.unit);
        return change.starts_with('+') ? change.substr(1) : change;
    };
    return fmt::format("PSS {} by {}: {}merged {}, zero pages {}, trimmed {}, other sharing {}\n",
                       less ? "fell" : "grew", text(parts.pss), less ? "" : "in parts, ",
                       text(parts.merge), text(parts.zero), text(parts.trim), text(parts.rest));
}

std::string diff_table(const Snapshot &before, const Snapshot &after, GroupBy by,
                       const Style &style) {
    return table_of(before, after, by, style).text(style.width, style.color) +
           gains_text(before, after, style);
}

Json diff_json(const Snapshot &before, const Snapshot &after, GroupBy by) {
    Json json = {{"schema", 1}, {"before", before.time}, {"after", after.time}};
    json["by"] = name_of(by);
    Json rows = Json::array();
    for (const auto &[key, usages] : matched(before, after, by))
        rows.push_back({{"key", key}, {"usage", pair_json(usages.first, usages.second)}});
    json["rows"] = std::move(rows);
    json["total"] = pair_json(sum_of(before), sum_of(after));
    const Gains parts = gains(before, after);
    json["gains"] = {{"pss", parts.pss},
                     {"merge", parts.merge},
                     {"zero", parts.zero},
                     {"trim", parts.trim},
                     {"rest", parts.rest}};
    return json;
}

} // namespace upm::tool::pss
