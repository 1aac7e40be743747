// SPDX-License-Identifier: MIT
//
// What merging would save: equal pages of processes are counted by their hashes.
#ifndef UPM_TOOLS_PSS_REPORT_MODEL_ESTIMATE_HPP
#define UPM_TOOLS_PSS_REPORT_MODEL_ESTIMATE_HPP

#include "tools/pss-report/model/report.hpp"
#include "tools/pss-report/model/snapshot.hpp"

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace upm::tool::pss {

// Resident memory by what merging can do with it; bytes. The parts add up to `scanned`.
struct Classes {
    std::uint64_t scanned = 0;
    std::uint64_t zero = 0;   // only zeros
    std::uint64_t shared = 0; // in a frame that others map too, and no twin elsewhere
    std::uint64_t anon = 0;   // anonymous with a twin in another frame
    std::uint64_t file = 0;   // of a file, with a twin in another frame
    std::uint64_t unique = 0;
    double saving = 0; // its part of what perfect merging saves

    Classes &operator+=(const Classes &other);
};

struct EstimateGroup {
    std::string key;
    std::array<Classes, kKinds> kinds = {};
    [[nodiscard]] Classes total() const;
};

struct Extrapolation {
    unsigned n = 0;
    double without = 0; // bytes of `n` such groups, as they are
    double with = 0;    // after perfect merging
};

// If all processes had one layout, so that pages with addresses were equal as well.
struct LayoutEstimate {
    double saving = 0;
    double at_most = 0; // if each page with addresses were equal to one of each other process
                        // that runs the same program and uses the page for the same
    double error = 0;   // as in Estimate
    std::vector<Extrapolation> extrapolation;
};

struct Estimate {
    std::vector<EstimateGroup> groups;
    Classes total;
    double at_most = 0;    // bytes, as in LayoutEstimate
    double error = 0;      // bytes, 95 %: of `total.saving` by sampling; 0: nothing was left out
    double sampled = 1;    // of the contents, the part that was kept
    double ksm = 0;        // bytes that KSM saves when it has seen all that it was given
    std::uint64_t now = 0; // bytes that sharing saves already: mappings less frames
    std::uint64_t unreadable = 0; // bytes that could not be read
    std::uint64_t vanished = 0;   // processes
    bool frames = true;           // page frames were visible (CAP_SYS_ADMIN)
    double seconds = 0, cpu_seconds = 0;
    std::vector<Extrapolation> extrapolation; // of at least two groups
    std::optional<LayoutEstimate> layout;
};

// One mapped page whose content is known, for the counting after the reading.
struct PageRecord {
    std::uint64_t hash = 0; // of its content, or of that with addresses made alike
    std::uint64_t frame = 0;
    std::uint32_t group = 0;
    std::uint32_t process = 0;
    std::uint32_t content = 0; // of a hash of the content as it is
    std::uint16_t program = 0; // processes with the same number run the same program
    Kind kind = Kind::kAnon;
    bool anon : 1 = false;
    bool exclusive : 1 = false; // nobody else maps the frame
    bool ksm : 1 = false;       // in a mapping that was given to KSM
    bool addresses : 1 = false; // addresses in it were made alike
};
static_assert(sizeof(PageRecord) == 32);

// Pages of equal hash would have one content if processes had one layout, unless one and
// the same process has several contents of them: then that many would be different.
// Adds classes, saving, error, ksm, now and the extrapolation for records of all pages
// but zeros, of which a part 1/`scale` was kept, by content. `groups` of the result must
// be there, with their zeros.
void count(Estimate &result, std::vector<PageRecord> &records, std::uint64_t scale,
           std::uint64_t page_size, std::uint64_t max_page_sharing);

} // namespace upm::tool::pss

#endif // UPM_TOOLS_PSS_REPORT_MODEL_ESTIMATE_HPP
