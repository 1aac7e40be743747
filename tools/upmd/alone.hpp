// SPDX-License-Identifier: MIT
//
// Pages that were made for a process: until it is seen to map them, or another one uses them;
// and again once they have gone without that. A process that has too many has no more made.
#ifndef UPM_UPMD_ALONE_HPP
#define UPM_UPMD_ALONE_HPP

#include "tools/upmd/ledger.hpp"

#include <algorithm>
#include <cstdint>
#include <unordered_map>

namespace upm::upmd {

class Alone {
  public:
    [[nodiscard]] std::uint64_t of(const Owner &owner) const {
        const auto found = pages_.find(owner.process);
        return found != pages_.end() ? found->second : 0;
    }
    // Pre: the process has a client.
    void add(const Owner &owner, std::uint64_t pages) { pages_[owner.process] += pages; }
    // The process may have left.
    void credit(const Owner &owner, std::uint64_t pages) {
        if (const auto found = pages_.find(owner.process); found != pages_.end())
            found->second -= std::min(found->second, pages);
    }
    void forget(std::uint64_t process) { pages_.erase(process); }

    // For tests: that it knows no process that has left.
    [[nodiscard]] bool consistent(const Ledger &ledger) const {
        return std::all_of(pages_.begin(), pages_.end(), [&](const auto &each) {
            return ledger.process(each.first).clients != 0;
        });
    }

  private:
    std::unordered_map<std::uint64_t, std::uint64_t> pages_;
};

} // namespace upm::upmd

#endif // UPM_UPMD_ALONE_HPP
