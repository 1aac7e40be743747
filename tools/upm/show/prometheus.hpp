// SPDX-License-Identifier: MIT
//
// The module's counters in the text format of Prometheus (see upm(1)).
#ifndef UPM_TOOLS_UPM_SHOW_PROMETHEUS_HPP
#define UPM_TOOLS_UPM_SHOW_PROMETHEUS_HPP

#include "tools/common/json.hpp"

#include <cstdint>
#include <string>

namespace upm::tool::cli {

// `module`: its knobs, statistics and domains as upm status --json has them, null if it is
// not loaded. What is missing there, since only root may read it, is left out.
std::string prometheus_text(const Json &module, std::uint64_t page_size);

} // namespace upm::tool::cli

#endif // UPM_TOOLS_UPM_SHOW_PROMETHEUS_HPP
