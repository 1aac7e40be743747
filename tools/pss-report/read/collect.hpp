// SPDX-License-Identifier: MIT
//
// One look at all chosen processes.
#ifndef UPM_TOOLS_PSS_REPORT_READ_COLLECT_HPP
#define UPM_TOOLS_PSS_REPORT_READ_COLLECT_HPP

#include "tools/pss-report/model/filter.hpp"
#include "tools/pss-report/model/snapshot.hpp"
#include "tools/pss-report/read/frames.hpp"
#include "tools/pss-report/read/parse.hpp"
#include "tools/pss-report/read/proc.hpp"

#include <string>
#include <vector>

namespace upm::tool::pss {

struct CollectOptions {
    Filter filter = {};
    // Read smaps in place of smaps_rollup: the split by kind of mapping.
    bool mappings = false;
    // Count merged pages by their frames wherever there are any.
    bool exact = false;
};

class Collector {
  public:
    Collector(Root root, CollectOptions options);

    // Throws Failure when /proc cannot be listed, or a pid that was asked for by name
    // is not there.
    Snapshot collect();

    // From the next time on.
    void read_mappings(bool on) { options_.mappings = on; }

    [[nodiscard]] Proc &proc() { return proc_; }

  private:
    enum class Verdict : std::uint8_t { kTaken, kFiltered };

    void add(int pid, Snapshot &snapshot);
    void read_memory(Process &process, const Status &status, bool smaps, int &error);
    void from_rollup(Process &process, const Status &status, int &error);
    void from_smaps(Process &process, const Status &status, int &error);
    void add_merged(const Process &process, const std::vector<MeasuredMapping> &mappings,
                    const std::vector<Kind> &kinds, std::vector<Usage> &usages);
    void add_ksm(Process &process);
    bool may_hold_store(int pid, const Status &status);
    void read_cgroup(Process &process);
    const std::string &user_name(std::uint32_t uid);
    System read_system();

    Proc proc_;
    CollectOptions options_;
    Frames frames_;
    std::map<std::uint32_t, std::string> users_;
    std::map<std::string, std::string> container_names_; // of runc and crun
    System system_;
    bool exact_ = true;
    std::uint64_t rollups_ = 0;
    std::uint64_t smaps_ = 0;
    std::uint64_t page_size_;
};

} // namespace upm::tool::pss

#endif // UPM_TOOLS_PSS_REPORT_READ_COLLECT_HPP
