// SPDX-License-Identifier: MIT
#ifndef UPM_TOOLS_PSS_REPORT_SHOW_LIVE_HPP
#define UPM_TOOLS_PSS_REPORT_SHOW_LIVE_HPP

#include "tools/pss-report/show/top.hpp"

#include <functional>

namespace upm::tool::pss {

// Takes a new snapshot; `mappings`: with the split by kind of mapping.
using Look = std::function<Snapshot(bool mappings)>;

// The live view on the terminal, until the user leaves it. Another thread calls `look`.
// Throws Failure, also what `look` throws, when the terminal is its old self again.
void watch_live(const Look &look, const TopOptions &options, bool color);

} // namespace upm::tool::pss

#endif // UPM_TOOLS_PSS_REPORT_SHOW_LIVE_HPP
