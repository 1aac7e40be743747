// SPDX-License-Identifier: MIT
//
// What `upm advise` and `upm unmerge` work on: processes, and in them mappings.
#ifndef UPM_TOOLS_UPM_MODEL_SELECTION_HPP
#define UPM_TOOLS_UPM_MODEL_SELECTION_HPP

#include "tools/common/maps.hpp"

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace upm::tool::cli {

struct AddressRange {
    std::uint64_t start = 0;
    std::uint64_t end = 0;
};

struct Target {
    int pid = 0;
    std::vector<AddressRange> ranges = {}; // empty: all of its memory
    // Found in a control group: that it ends meanwhile is no failure.
    bool may_vanish = false;
};

// "12" and "12:7f0000000000-7f0000200000" (hexadecimal, 0x is allowed). Throw
// UsageError.
int parse_pid(std::string_view text);
Target parse_range(std::string_view text);

// Why a mapping is not given to the library at all.
enum class LeftOut : std::uint8_t {
    kShared,   // MAP_SHARED
    kSpecial,  // [vdso], [vvar] and the like
    kHugetlb,  // hugetlbfs
    kNoAccess, // PROT_NONE: reserved, nobody reads it
    kFile,     // --anon-only
    kSmall,    // --min-bytes
};
inline constexpr std::array<const char *, 6> kLeftOutNames = {"shared",    "special", "hugetlb",
                                                              "no_access", "file",    "small"};

struct Filter {
    std::uint64_t min_bytes = 0;
    bool anon_only = false;
    std::vector<std::string> hugetlb_mounts = {}; // with a slash at the end
};

struct Selection {
    std::vector<Mapping> mappings; // cut to the target's ranges
    std::array<unsigned, kLeftOutNames.size()> left_out = {};
};

Selection select(std::vector<Mapping> mappings, const Target &target, const Filter &filter);

} // namespace upm::tool::cli

#endif // UPM_TOOLS_UPM_MODEL_SELECTION_HPP
