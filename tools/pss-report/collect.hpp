// SPDX-License-Identifier: MIT
//
// One look at all chosen processes.
#ifndef UPM_TOOLS_PSS_REPORT_COLLECT_HPP
#define UPM_TOOLS_PSS_REPORT_COLLECT_HPP

#include "tools/pss-report/files.hpp"
#include "tools/pss-report/frames.hpp"
#include "tools/pss-report/model.hpp"
#include "tools/pss-report/parse.hpp"

#include <set>
#include <string>
#include <vector>

namespace upm::pss {

// A process is taken if it matches each list that is not empty, and in it any entry.
struct Filter {
    std::set<int> pids = {};
    std::vector<std::string> names = {};   // shell patterns, of the command name
    std::vector<std::string> cgroups = {}; // shell patterns, of the path or of one above it
    std::vector<std::string> users = {};   // names or numbers
    std::set<int> without = {};            // never these
};

// Whether the filter takes a process; `without` is not looked at.
bool wanted(const Filter &filter, const Process &process);

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

    [[nodiscard]] Root &root() { return root_; }

  private:
    enum class Verdict : std::uint8_t { kTaken, kFiltered };

    void add(int pid, Snapshot &snapshot);
    void read_memory(Process &process, const Status &status, bool smaps, int &error);
    void from_rollup(Process &process, const Status &status, int &error);
    void from_smaps(Process &process, const Status &status, int &error);
    void add_merged(const Process &process, const std::vector<Mapping> &mappings,
                    const std::vector<Kind> &kinds, std::vector<Usage> &usages);
    void add_ksm(Process &process);
    bool may_hold_store(int pid, const Status &status);
    void read_cgroup(Process &process);
    const std::string &user_name(std::uint32_t uid);
    System read_system();

    Root root_;
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

} // namespace upm::pss

#endif // UPM_TOOLS_PSS_REPORT_COLLECT_HPP
