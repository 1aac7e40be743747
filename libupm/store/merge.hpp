// SPDX-License-Identifier: MIT
//
// The work of one advise or unmerge with the backend store: the story, whose steps are
// the other files of this folder. docs/store.md describes the method and argues why no
// write is lost.
#ifndef UPM_STORE_MERGE_HPP
#define UPM_STORE_MERGE_HPP

#include "libupm/mm/own_maps.hpp"
#include "libupm/mm/pagemap.hpp"
#include "libupm/mm/vma_reader.hpp"
#include "libupm/store/client.hpp"
#include "libupm/store/freezer.hpp"
#include "libupm/store/lookup.hpp"
#include "libupm/store/open_segments.hpp"
#include "libupm/store/publish.hpp"
#include "libupm/store/replace.hpp"
#include "libupm/store/run_budget.hpp"
#include "libupm/store/window.hpp"

#include <upm/upm.h>

#include <cstdint>

namespace upm::store {

// It is about 300 KiB large: see Mapped. `counts` must not lie in the program's memory.
class Merge {
  public:
    struct Tools {
        Connection &connection; // open, but for unmerge()
        const SocketPath &path;
        RunBudget &budget;
        FreezeMode mode;
        Gate *gate;   // null, or inside of it; see Call::gate
        bool publish; // false: only with what is known
    };
    Merge(const Tools &tools, upm_counts &counts) noexcept;

    // Returns 0, or -errno: /proc cannot be read. Before all others.
    [[nodiscard]] int ready() const noexcept {
        return pagemap_.error() != 0 ? pagemap_.error() : maps_.error();
    }
    // Merges a part of one mapping, private and readable. 0 or -errno; either way what
    // was done is counted. ECANCELED: nothing of the program may be touched any more.
    int advise(const Vma &part) noexcept;
    // Gives a part of a mapping of a segment private memory again.
    int unmerge(const Vma &part) noexcept;
    // The first error that kept single pages from being merged, or 0.
    [[nodiscard]] int error() const noexcept { return error_; }

  private:
    Target::Tools target_tools() noexcept {
        return {.freezer = freezer_,
                .pagemap = pagemap_,
                .maps = maps_,
                .gate = tools_.gate,
                .entries = entries_};
    }
    int merge_window(Replacer &replacer, std::uint64_t start, std::uint32_t pages) noexcept;
    int find_and_merge(Replacer &replacer) noexcept;
    int follow_successors(Replacer &replacer) noexcept;
    int find_rest(Replacer &replacer) noexcept;
    int find_by_hash(Replacer &replacer, bool publish) noexcept;
    int merge_hashed(Replacer &replacer) noexcept;
    int merge_run(Replacer &replacer, const Run &run, std::uint32_t &stopped) noexcept;

    const Tools tools_;
    upm_counts &counts_;
    PageMap pagemap_;
    OwnMaps maps_;
    Freezer freezer_;
    SegmentView view_;
    OpenSegments segments_;
    Window window_;
    Lookup lookup_;
    Publisher publisher_;
    std::uint64_t entries_[kBatch]; // Target::Tools
    int error_ = 0;
};

} // namespace upm::store

#endif // UPM_STORE_MERGE_HPP
