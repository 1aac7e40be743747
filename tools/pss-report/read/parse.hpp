// SPDX-License-Identifier: MIT
//
// Parsers of /proc and of cgroup paths. They take text, touch no file, and are made for
// text that others control: names hold any bytes, and a process may end in the middle.
// What they do not know they pass over.
#ifndef UPM_TOOLS_PSS_REPORT_READ_PARSE_HPP
#define UPM_TOOLS_PSS_REPORT_READ_PARSE_HPP

#include "tools/common/maps.hpp"
#include "tools/pss-report/model/snapshot.hpp"

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace upm::tool::pss {

// The figures of one mapping in smaps, or of all in smaps_rollup; bytes.
struct Figures {
    std::uint64_t size = 0;
    std::uint64_t rss = 0;
    std::uint64_t pss = 0;
    std::uint64_t shared_clean = 0;
    std::uint64_t shared_dirty = 0;
    std::uint64_t private_clean = 0;
    std::uint64_t private_dirty = 0;
    std::uint64_t anonymous = 0;
    std::uint64_t ksm = 0;
    std::uint64_t anon_huge = 0;
    std::uint64_t shared_hugetlb = 0;
    std::uint64_t private_hugetlb = 0;
    std::uint64_t swap = 0;
    std::uint64_t swap_pss = 0;
    std::uint64_t locked = 0;
};

// The words of VmFlags that matter here.
struct MappingFlags {
    bool mixed = false;     // mm: holds pages put there by a driver, as UPM does
    bool mergeable = false; // mg: given to KSM
    bool io = false;        // io: memory of a device
    bool pfn = false;       // pf: page frames without a struct page
    bool hugetlb = false;   // ht
    bool dont_dump = false; // dd: a program's mark for secrets
    bool wipe = false;      // wf: wiped on fork
    bool shared = false;    // sh
    bool may_share = false; // ms: MAP_SHARED at mmap time
};

// A mapping, and what follows its line in smaps.
struct MeasuredMapping : Mapping {
    Figures figures;
    MappingFlags flags;

    // Returns true for a private mapping of a sealed memfd of UPM's backend store.
    [[nodiscard]] bool store() const { return !shared() && name.starts_with("/memfd:upm"); }
    // Returns true for a mapping of the kernel's own or of a device.
    [[nodiscard]] bool no_memory() const { return special() || flags.io || flags.pfn; }
};

// All mappings of a text in the format of smaps, or of maps, without their figures.
std::vector<MeasuredMapping> parse_smaps(std::string_view text);

Figures parse_rollup(std::string_view text);

// What each mapping of one process is used for. They must be in order of address.
std::vector<Kind> classify(const std::vector<MeasuredMapping> &mappings);

struct Status {
    std::string name; // escapes undone
    char state = '?';
    int ppid = 0;
    std::uint32_t uid = 0; // effective
    bool kernel_thread = false;
    bool has_memory = false; // there are Vm lines: neither kernel thread nor zombie
    std::uint64_t rss = 0;
    std::uint64_t rss_shmem = 0;
    std::uint64_t swap = 0;
};
Status parse_status(std::string_view text);

struct KsmStat {
    std::uint64_t merging_pages = 0;
    std::uint64_t zero_pages = 0;
};
KsmStat parse_ksm_stat(std::string_view text);

// "MemTotal:  1 kB" lines; bytes by name.
std::map<std::string, std::uint64_t> parse_meminfo(std::string_view text);

// name:password:uid:... lines of /etc/passwd.
std::map<std::uint32_t, std::string> parse_passwd(std::string_view text);

} // namespace upm::tool::pss

#endif // UPM_TOOLS_PSS_REPORT_READ_PARSE_HPP
