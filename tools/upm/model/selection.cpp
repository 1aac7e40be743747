// SPDX-License-Identifier: MIT
#include "tools/upm/model/selection.hpp"

#include "tools/common/errors.hpp"
#include "tools/common/text.hpp"

#include <algorithm>
#include <climits>
#include <fmt/format.h>
#include <optional>

namespace upm::tool::cli {

namespace {

std::optional<unsigned long long> parse_address(std::string_view text) {
    if (text.starts_with("0x") || text.starts_with("0X"))
        text.remove_prefix(2);
    return parse_integer<std::uint64_t>(text, 16);
}

bool is_hugetlb(const Mapping &mapping, const Filter &filter) {
    return mapping.name.starts_with("/anon_hugepage") ||
           std::any_of(filter.hugetlb_mounts.begin(), filter.hugetlb_mounts.end(),
                       [&](const std::string &point) { return mapping.name.starts_with(point); });
}

std::optional<LeftOut> why_left_out(const Mapping &mapping, const Filter &filter) {
    if (mapping.special())
        return LeftOut::kSpecial;
    if (is_hugetlb(mapping, filter))
        return LeftOut::kHugetlb;
    if (mapping.shared())
        return LeftOut::kShared;
    if (!mapping.accessible())
        return LeftOut::kNoAccess;
    if (filter.anon_only && mapping.file())
        return LeftOut::kFile;
    if (mapping.size() < filter.min_bytes)
        return LeftOut::kSmall;
    return std::nullopt;
}

} // namespace

int parse_pid(std::string_view text) {
    const auto pid = parse_integer<std::uint64_t>(text);
    if (!pid || *pid == 0 || *pid > INT_MAX)
        throw UsageError(fmt::format("'{}' is not a process id", printable(text)));
    return static_cast<int>(*pid);
}

Target parse_range(std::string_view text) {
    const std::size_t colon = text.find(':');
    const std::size_t dash = text.find('-', colon == std::string_view::npos ? 0 : colon);
    if (colon == std::string_view::npos || dash == std::string_view::npos)
        throw UsageError(fmt::format("'{}' is not a range: PID:START-END", printable(text)));
    const auto start = parse_address(text.substr(colon + 1, dash - colon - 1));
    const auto end = parse_address(text.substr(dash + 1));
    if (!start || !end || *start >= *end)
        throw UsageError(fmt::format("'{}' is not a range: START and END are hexadecimal, and "
                                     "START is the smaller one",
                                     printable(text)));
    return {.pid = parse_pid(text.substr(0, colon)),
            .ranges = {{.start = *start, .end = *end}},
            .may_vanish = false};
}

Selection select(std::vector<Mapping> mappings, const Target &target, const Filter &filter) {
    Selection selection;
    for (Mapping &mapping : mappings) {
        const bool wanted =
            target.ranges.empty() ||
            std::any_of(target.ranges.begin(), target.ranges.end(), [&](const AddressRange &range) {
                return range.start < mapping.end && range.end > mapping.start;
            });
        if (!wanted)
            continue;
        if (const std::optional<LeftOut> why = why_left_out(mapping, filter)) {
            ++selection.left_out.at(static_cast<std::size_t>(*why));
            continue;
        }
        if (target.ranges.empty()) {
            selection.mappings.push_back(std::move(mapping));
            continue;
        }
        for (const AddressRange &range : target.ranges) {
            Mapping part = mapping;
            part.start = std::max(part.start, range.start);
            part.end = std::min(part.end, range.end);
            if (part.start < part.end)
                selection.mappings.push_back(std::move(part));
        }
    }
    return selection;
}

} // namespace upm::tool::cli
