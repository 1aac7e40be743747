// SPDX-License-Identifier: MIT
//
// Pages as they would be if all processes had one layout: an address of the process's own
// memory becomes what would be the same in another process that did the same.
#ifndef UPM_TOOLS_PSS_REPORT_READ_REBASE_HPP
#define UPM_TOOLS_PSS_REPORT_READ_REBASE_HPP

#include "tools/pss-report/read/parse.hpp"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace upm::tool::pss {

// What is taken for an address: an aligned word of eight bytes whose value lies in a mapping
// of the process; below 4 GiB, where other numbers are as well, only multiples of eight. It
// becomes
// - in a mapping of a file: the file's name, and the place after its first mapping;
// - in the heap: its place after the start; in the stack: before the end;
// - in other memory: its place in the page. Which page it is of those that lie where there
//   was room is not told from outside: count() takes care of pages that differ in that only.
// So do the links of glibc's lists of free memory, which are xored with the number of their
// page, and the upper half of an address whose lower half was overwritten.
class Rebaser {
  public:
    // In the order of their addresses. Nothing: no word is changed.
    explicit Rebaser(const std::vector<MeasuredMapping> &mappings = {});

    // The bytes of the page at that address; `size`: a multiple of 8. Returns true if there
    // were addresses in it.
    bool rebase(char *page, std::size_t size, std::uint64_t address) const;

  private:
    struct Part {
        std::uint64_t start = 0;
        std::uint64_t end = 0;
        std::uint64_t shift = 0; // added to what is kept of an address,
        std::uint64_t kept = 0;  // which are these bits
    };

    [[nodiscard]] const Part *find(std::uint64_t word) const;
    [[nodiscard]] bool has_upper_half(std::uint64_t word) const;
    [[nodiscard]] std::uint64_t rebased(std::uint64_t word, std::uint64_t page_number) const;

    std::vector<Part> parts_; // by address
};

} // namespace upm::tool::pss

#endif // UPM_TOOLS_PSS_REPORT_READ_REBASE_HPP
