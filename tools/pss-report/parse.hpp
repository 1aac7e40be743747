// SPDX-License-Identifier: MIT
//
// Parsers of /proc and of cgroup paths. They take text, touch no file, and are made for
// text that others control: names hold any bytes, and a process may end in the middle.
// What they do not know they pass over.
#ifndef UPM_TOOLS_PSS_REPORT_PARSE_HPP
#define UPM_TOOLS_PSS_REPORT_PARSE_HPP

#include "tools/pss-report/model.hpp"

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace upm::pss {

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

// One mapping: the line as in /proc/PID/maps, and what follows it in smaps.
struct Mapping {
    std::uint64_t start = 0;
    std::uint64_t end = 0;
    char permissions[5] = "----";
    std::uint64_t offset = 0;
    std::uint64_t device = 0; // major << 32 | minor
    std::uint64_t inode = 0;
    std::string name; // as the kernel prints it
    Figures figures;
    MappingFlags flags;

    [[nodiscard]] std::uint64_t size() const { return end - start; }
    [[nodiscard]] bool shared() const { return permissions[3] == 's'; }
    [[nodiscard]] bool executable() const { return permissions[2] == 'x'; }
    [[nodiscard]] bool writable() const { return permissions[1] == 'w'; }
    [[nodiscard]] bool no_access() const { return std::string_view(permissions, 3) == "---"; }
    [[nodiscard]] bool file() const { return inode != 0; }
    // A private mapping of a sealed memfd of UPM's backend store.
    [[nodiscard]] bool store() const { return !shared() && name.starts_with("/memfd:upm"); }
    // Of the kernel's own ([vdso] and its like) or of a device.
    [[nodiscard]] bool special() const;
};

// One line of maps; nothing if it is none.
std::optional<Mapping> parse_mapping(std::string_view line);

// All mappings of a text in the format of smaps, or of maps, without their figures.
std::vector<Mapping> parse_smaps(std::string_view text);

Figures parse_rollup(std::string_view text);

// What each mapping of one process is used for. They must be in order of address.
std::vector<Kind> classify(const std::vector<Mapping> &mappings);

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

// The path that says most: that of version 2 unless it is the root, else of the memory
// controller, else the first that is not the root.
std::string parse_cgroup(std::string_view text);

// `names`: containers of runc and crun, whose cgroups are called as the user likes.
Container container_of(std::string_view cgroup,
                       const std::map<std::string, std::string> &names = {});

struct KsmStat {
    std::uint64_t merging_pages = 0;
    std::uint64_t zero_pages = 0;
};
KsmStat parse_ksm_stat(std::string_view text);

// "MemTotal:  1 kB" lines; bytes by name.
std::map<std::string, std::uint64_t> parse_meminfo(std::string_view text);

// name:password:uid:... lines of /etc/passwd.
std::map<std::uint32_t, std::string> parse_passwd(std::string_view text);

// Calls `line` for each line, without its newline.
template <typename Line>
void for_each_line(std::string_view text, Line &&line) {
    while (!text.empty()) {
        const std::size_t end = text.find('\n');
        line(text.substr(0, end));
        if (end == std::string_view::npos)
            return;
        text.remove_prefix(end + 1);
    }
}

} // namespace upm::pss

#endif // UPM_TOOLS_PSS_REPORT_PARSE_HPP
