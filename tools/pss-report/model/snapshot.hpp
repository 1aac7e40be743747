// SPDX-License-Identifier: MIT
//
// What a report is made of: memory figures, processes, and one look at a machine.
#ifndef UPM_TOOLS_PSS_REPORT_MODEL_SNAPSHOT_HPP
#define UPM_TOOLS_PSS_REPORT_MODEL_SNAPSHOT_HPP

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace upm::tool::pss {

// Bytes. `anon`, `file`, `shmem` and `upm` are parts of `rss` and add up to it; `ksm`
// is a part of `anon`.
struct Usage {
    std::uint64_t rss = 0;       // mapped pages that are in memory
    std::uint64_t pss = 0;       // the same, each page divided by how many map it
    std::uint64_t uss = 0;       // mapped by this process alone
    std::uint64_t anon = 0;      // anonymous pages, KSM's among them
    std::uint64_t file = 0;      // pages of files
    std::uint64_t shmem = 0;     // tmpfs, memfd and shared anonymous pages
    std::uint64_t swap = 0;      // swapped out
    std::uint64_t swap_pss = 0;  // the same, divided by how many share it
    std::uint64_t hugetlb = 0;   // hugetlbfs; not in rss
    std::uint64_t huge = 0;      // anonymous transparent huge pages, part of anon
    std::uint64_t locked = 0;    // mlock(2)
    std::uint64_t ksm = 0;       // pages that KSM merged
    std::uint64_t ksm_zero = 0;  // pages that KSM replaced by the zero page; not in rss
    std::uint64_t upm = 0;       // pages that UPM merged (module and store)
    std::uint64_t ksm_saved = 0; // this process's part of what KSM saves now
    std::uint64_t upm_saved = 0; // this process's part of what UPM saves now
    std::uint64_t saved = 0;     // sum of the two

    Usage &operator+=(const Usage &other);
    bool operator==(const Usage &) const = default;
};

struct UsageField {
    const char *name;  // in JSON, CSV and --fields
    const char *title; // of a column
    std::uint64_t Usage::*member;
    const char *help; // one line, for Prometheus and the man page
};

inline constexpr std::array<UsageField, 17> kUsageFields = {{
    {"rss", "RSS", &Usage::rss, "mapped pages that are in memory"},
    {"pss", "PSS", &Usage::pss, "resident pages, each divided by how many map it"},
    {"uss", "USS", &Usage::uss, "resident pages that one process alone maps"},
    {"anon", "ANON", &Usage::anon, "anonymous resident pages, those merged by KSM among them"},
    {"file", "FILE", &Usage::file, "resident pages of files"},
    {"shmem", "SHMEM", &Usage::shmem, "resident pages of tmpfs, memfd and shared memory"},
    {"swap", "SWAP", &Usage::swap, "pages that are swapped out"},
    {"swap_pss", "SWAPPSS", &Usage::swap_pss, "swapped pages, each divided by how many share it"},
    {"hugetlb", "HUGETLB", &Usage::hugetlb, "pages of hugetlbfs, which are not part of rss"},
    {"huge", "THP", &Usage::huge, "anonymous transparent huge pages"},
    {"locked", "LOCKED", &Usage::locked, "locked pages"},
    {"ksm", "KSM", &Usage::ksm, "pages that KSM merged"},
    {"ksm_zero", "KSMZERO", &Usage::ksm_zero, "pages that KSM replaced by the zero page"},
    {"upm", "UPM", &Usage::upm, "pages that UPM merged"},
    {"ksm_saved", "KSMSAVED", &Usage::ksm_saved, "memory that merging by KSM saves now"},
    {"upm_saved", "UPMSAVED", &Usage::upm_saved, "memory that merging by UPM saves now"},
    {"saved", "SAVED", &Usage::saved, "memory that merging saves now"},
}};

// Null if there is none of that name.
const UsageField *find_usage_field(std::string_view name);

// What a mapping is used for, as far as /proc tells.
enum class Kind : std::uint8_t {
    kWeights,     // anonymous, large: what models are loaded into
    kHeap,        // [heap]
    kArena,       // glibc's 64 MiB malloc arenas of threads
    kAnon,        // other anonymous memory
    kStack,       // of the main thread and of others
    kText,        // executable, of a file
    kFilePrivate, // private mapping of a file that holds private copies
    kFile,        // other mapping of a file
    kShmem,       // shared anonymous memory, memfd
    kStore,       // sealed memfd of UPM's backend store
    kHugetlb,     // hugetlbfs
    kSpecial,     // [vdso] and the like, devices
};

inline constexpr std::size_t kKinds = 12;
inline constexpr std::array<const char *, kKinds> kKindNames = {
    "weights",      "heap", "arena", "anon",  "stack",   "text",
    "file_private", "file", "shmem", "store", "hugetlb", "special"};

struct KindUsage {
    Usage usage;
    std::uint64_t mappings = 0;
    std::uint64_t size = 0; // bytes of address space
};

struct Container {
    std::string runtime;       // docker, podman, ...; empty: in no container
    std::string id;            // as the cgroup says it
    std::string name = {};     // as people call it; empty where nobody tells
    std::string pod = {};      // the uid of its Kubernetes pod, the id of podman's
    std::string pod_name = {}; // "namespace/name"
    bool operator==(const Container &) const = default;
};

struct Process {
    int pid = 0;
    int thread = 0; // whose files show the memory; 0: the first one's, as usual
    int ppid = 0;
    std::uint32_t uid = 0;
    std::string user;                      // the number if it has no name
    std::string command;                   // /proc/PID/comm: any bytes
    std::string cgroup;                    // path in its hierarchy; empty when unknown
    std::vector<std::string> cgroups = {}; // in all hierarchies; empty in recordings
    Container container;
    Usage usage;
    std::optional<std::array<KindUsage, kKinds>> kinds; // read from smaps
};

// A process that is not in the figures, and why.
struct Unreadable {
    int pid = 0;
    std::string command;
    std::string reason;
    std::uint64_t rss = 0; // from /proc/PID/status, which more people may read
};

struct Skipped {
    std::uint64_t kernel_threads = 0;
    std::uint64_t zombies = 0;
    std::uint64_t vanished = 0; // ended while they were read
    std::uint64_t filtered = 0;
    std::vector<Unreadable> unreadable = {};
};

// Bytes of /proc/meminfo, and what the mergers say of themselves.
struct System {
    std::uint64_t mem_total = 0;
    std::uint64_t mem_free = 0;
    std::uint64_t mem_available = 0;
    std::uint64_t swap_total = 0;
    std::uint64_t swap_free = 0;
    std::map<std::string, std::int64_t> ksm = {}; // /sys/kernel/mm/ksm; empty: no KSM
    std::map<std::string, std::int64_t> upm = {}; // /sys/kernel/upm; empty: no module
};

struct Snapshot {
    std::string time; // ISO 8601, UTC
    double unix_time = 0;
    std::string host;
    std::string kernel;
    std::string tag;     // --tag
    std::int64_t n = -1; // --n: how many copies of the function run; -1: not said
    std::string source;  // smaps_rollup, smaps or mixed
    bool exact = true;   // UPM's pages were counted frame by frame, where there are any
    double seconds = 0;  // that reading took
    std::uint64_t page_size = 4096;
    System system = {};
    std::vector<Process> processes = {};
    Skipped skipped = {};
};

} // namespace upm::tool::pss

#endif // UPM_TOOLS_PSS_REPORT_MODEL_SNAPSHOT_HPP
