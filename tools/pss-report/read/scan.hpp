// SPDX-License-Identifier: MIT
//
// The memory of processes, read for an estimate of what merging would save: each page
// is hashed. Nothing is changed, and no page is brought in that is not there.
#ifndef UPM_TOOLS_PSS_REPORT_READ_SCAN_HPP
#define UPM_TOOLS_PSS_REPORT_READ_SCAN_HPP

#include "tools/pss-report/model/estimate.hpp"
#include "tools/pss-report/read/proc.hpp"

namespace upm::tool::pss {

struct EstimateOptions {
    GroupBy by = GroupBy::kProcess;
    double max_cpu = 100;                                 // per cent of one processor
    std::uint64_t max_memory = std::uint64_t{256} << 20U; // bytes of bookkeeping
    bool progress = false;                                // on standard error
    bool layout = false; // read all once more: what would one layout bring?
};

// Private mappings of the processes of a snapshot.
Estimate estimate(Proc &proc, const Snapshot &snapshot, const EstimateOptions &options);

} // namespace upm::tool::pss

#endif // UPM_TOOLS_PSS_REPORT_READ_SCAN_HPP
