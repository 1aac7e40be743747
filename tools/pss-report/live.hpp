// SPDX-License-Identifier: MIT
#ifndef UPM_TOOLS_PSS_REPORT_LIVE_HPP
#define UPM_TOOLS_PSS_REPORT_LIVE_HPP

#include "tools/pss-report/collect.hpp"
#include "tools/pss-report/top.hpp"

#include <functional>

namespace upm::pss {

// The live view on the terminal, until the user leaves it. `each` is called for every
// look, in another thread. Throws Failure, also what collecting throws, when the terminal
// is its old self again.
void watch_live(Collector &collector, const TopOptions &options, bool color,
                const std::function<void(Snapshot &)> &each);

} // namespace upm::pss

#endif // UPM_TOOLS_PSS_REPORT_LIVE_HPP
