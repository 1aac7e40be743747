// SPDX-License-Identifier: MIT
//
// One look at all chosen processes.
#ifndef UPM_TOOLS_PSS_REPORT_READ_COLLECT_HPP
#define UPM_TOOLS_PSS_REPORT_READ_COLLECT_HPP

#include "tools/pss-report/read/bounded_reader.hpp"

#include <vector>

namespace upm::tool::pss {

class Collector {
  public:
    Collector(const Root &root, const CollectOptions &options);

    // Throws Failure when /proc cannot be listed, or a pid that was asked for by name
    // is not there.
    Snapshot collect();

    // From the next time on.
    void read_mappings(bool on) { mappings_ = on; }

    [[nodiscard]] Proc &proc() { return proc_; }

  private:
    [[nodiscard]] std::vector<int> pids() const;
    System read_system();

    Proc proc_;
    Filter filter_;
    bool mappings_;
    BoundedReader reader_;
    std::uint64_t page_size_;
};

} // namespace upm::tool::pss

#endif // UPM_TOOLS_PSS_REPORT_READ_COLLECT_HPP
