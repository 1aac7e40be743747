// SPDX-License-Identifier: MIT
//
// One look at one process.
#ifndef UPM_TOOLS_PSS_REPORT_READ_PROCESS_READER_HPP
#define UPM_TOOLS_PSS_REPORT_READ_PROCESS_READER_HPP

#include "tools/pss-report/model/filter.hpp"
#include "tools/pss-report/model/snapshot.hpp"
#include "tools/pss-report/read/container_names.hpp"
#include "tools/pss-report/read/containers.hpp"
#include "tools/pss-report/read/frames.hpp"
#include "tools/pss-report/read/parse.hpp"
#include "tools/pss-report/read/proc.hpp"

#include <functional>
#include <map>
#include <set>
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

// What became of a process.
enum class Fate : std::uint8_t {
    kExcluded, // not to be looked at
    kTaken,
    kFiltered,
    kVanished,
    kZombie,
    kKernelThread,
    kUnreadable,
};

struct Reading {
    Fate fate = Fate::kExcluded;
    Process process = {};
    std::uint64_t rss = 0; // as /proc/PID/status says
    int error = 0;         // why it is unreadable: a positive errno
    bool exact = true;     // UPM's pages were counted frame by frame
    bool smaps = false;    // smaps was read, not the rollup
};

class ProcessReader {
  public:
    // Is called before the files of a process that the kernel may not answer for: those
    // of its memory, which wait for a lock that the process may hold for ever.
    using BeforeMemory = std::function<void(const Process &process, std::uint64_t rss)>;

    ProcessReader(const Root &root, CollectOptions options, BeforeMemory before_memory);

    // A new look at the machine begins.
    void begin(const System &system, bool mappings);
    Reading read(int pid);

  private:
    using Threads = std::set<int>;

    // By one of its threads, but none of those.
    Reading read_once(int pid, const Threads &ended);
    std::string_view read_process_file(const Process &process, const char *name, int &error);
    int living_thread(int pid, const Threads &ended, Status &status);
    void read_memory(Process &process, const Status &status, bool smaps, int &error);
    void from_rollup(Process &process, const Status &status, int &error);
    void from_smaps(Process &process, const Status &status, int &error);
    void add_merged(const Process &process, const std::vector<MeasuredMapping> &mappings,
                    const std::vector<Kind> &kinds, std::vector<Usage> &usages);
    void add_ksm(Process &process);
    bool may_hold_store(const Process &process, const Status &status);
    void read_cgroup(Process &process, int &error);
    const std::string &user_name(std::uint32_t uid);

    Proc proc_;
    CollectOptions options_;
    BeforeMemory before_memory_;
    Frames frames_;
    std::map<std::uint32_t, std::string> users_;
    std::map<std::string, std::string> container_runtimes_; // of runc and crun, by name
    ContainerNames container_names_;
    System system_;
    bool exact_ = true;
    std::uint64_t page_size_;
};

} // namespace upm::tool::pss

#endif // UPM_TOOLS_PSS_REPORT_READ_PROCESS_READER_HPP
