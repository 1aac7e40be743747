// SPDX-License-Identifier: MIT
//
// Two snapshots side by side: what was gained, and by what.
#ifndef UPM_TOOLS_PSS_REPORT_SHOW_DIFF_HPP
#define UPM_TOOLS_PSS_REPORT_SHOW_DIFF_HPP

#include "tools/pss-report/show/output.hpp"

namespace upm::tool::pss {

// Bytes of PSS that became less; the parts add up to `pss`.
struct Gains {
    std::int64_t pss = 0;
    std::int64_t merge = 0; // pages that share a frame now, by KSM or UPM
    std::int64_t zero = 0;  // pages of zeros that were dropped
    std::int64_t trim = 0;  // other pages that are no longer there
    std::int64_t rest = 0;  // shared in other ways, or by more others
};
Gains gains(const Snapshot &before, const Snapshot &after);

// Groups are matched by their keys; one that is missing counts as 0.
Table table_of(const Snapshot &before, const Snapshot &after, GroupBy by, const Style &style);
// "PSS gained ..."
std::string gains_text(const Snapshot &before, const Snapshot &after, const Style &style);
// Both.
std::string diff_table(const Snapshot &before, const Snapshot &after, GroupBy by,
                       const Style &style);
Json diff_json(const Snapshot &before, const Snapshot &after, GroupBy by);

} // namespace upm::tool::pss

#endif // UPM_TOOLS_PSS_REPORT_SHOW_DIFF_HPP
