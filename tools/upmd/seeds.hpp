// SPDX-License-Identifier: MIT
//
// Seeds: content that stays though nobody maps it, so that also the first program of its kind
// finds it. A seed belongs to a user and a domain. It keeps each segment that one of its
// clients gets, as long as its budget and its user's share last; the user pays for all of them,
// whoever had them made. It ends when it is dropped, or a while after its last use.
#ifndef UPM_UPMD_SEEDS_HPP
#define UPM_UPMD_SEEDS_HPP

#include "libupm/store/wire.hpp"
#include "tools/upmd/catalog.hpp"
#include "tools/upmd/ledger.hpp"

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <unordered_set>

namespace upm::upmd {

using SeedNumber = std::uint64_t; // 0: none
using SeedToken = std::array<std::uint8_t, store::kSeedToken>;

struct Seed {
    SeedNumber number = 0;
    SeedToken token{}; // zeros if it is not open
    uid_t uid = 0;
    Domain *domain = nullptr;
    std::uint64_t process = 0; // that began it
    bool open = true;          // it takes what its clients get
    std::string label;
    std::uint64_t budget = 0; // pages, here and below
    std::uint64_t pages = 0;
    std::uint64_t missed = 0;
    std::uint64_t expire_ms = 0; // after its last use; 0: never
    std::uint64_t used_at = 0;
    std::unordered_set<SegmentId> segments;
    std::unordered_set<SegmentId> without; // those that were missed
};

class Seeds {
  public:
    // `release` gets what is kept no more: nobody may use it.
    Seeds(const Limits &limits, Catalog &catalog, Ledger &ledger,
          std::function<std::uint64_t()> random, std::function<void(Segment &)> release)
        : limits_(limits), catalog_(catalog), ledger_(ledger), random_(std::move(random)),
          release_(std::move(release)) {}

    // What a new one is to be.
    struct Wish {
        uid_t uid = 0;
        Domain *domain = nullptr;
        std::uint64_t process = 0;
        std::string label;
        std::uint64_t budget = 0; // pages; 0: as many as the user may have
        std::uint64_t expire_ms = 0;
    };
    // nullptr: `error` says why, EPERM (seeds are switched off) or EDQUOT (there are too many
    // of the user, or they have all of its share).
    Seed *begin(const Wish &wish, std::uint64_t now, int &error);
    // The one with that token, if a client of that user and domain may join it; else 0.
    [[nodiscard]] SeedNumber joined(const SeedToken &token, uid_t uid, const Domain &domain) const;
    [[nodiscard]] Seed *find(SeedNumber number);
    [[nodiscard]] const std::map<SeedNumber, Seed> &all() const { return seeds_; }

    // A client of the seed has got that segment. Returns true if it is kept.
    bool keep(SeedNumber number, Segment &segment, std::uint64_t now);
    // It takes nothing more; one that has nothing goes. Returns false if it went.
    bool end(Seed &seed, std::uint64_t now);
    // Those that a process began end with it.
    void end_of_process(std::uint64_t process, std::uint64_t now);
    // Lets go of all that it keeps. Returns the pages.
    std::uint64_t drop(Seed &seed);

    // Ends what is over, and gives the time of the next call (0: none is needed).
    std::uint64_t expire(std::uint64_t now);
    // Pages of its segments that clients use.
    [[nodiscard]] std::uint64_t used(const Seed &seed) const;

    // For tests: that segments and seeds agree. Adds what they take to `sums`.
    [[nodiscard]] bool consistent(Ledger &sums) const;

  private:
    [[nodiscard]] static Owner owner(const Seed &seed);
    [[nodiscard]] std::uint64_t last_use(const Seed &seed, std::uint64_t now) const;
    bool pay(const Seed &seed, Segment &segment);
    static void miss(Seed &seed, const Segment &segment);
    void let_go(Segment &segment, SeedNumber number);
    void forget(Seed &seed);

    Limits limits_;
    Catalog &catalog_;
    Ledger &ledger_;
    std::function<std::uint64_t()> random_;
    std::function<void(Segment &)> release_;
    std::map<SeedNumber, Seed> seeds_;
    SeedNumber last_ = 0;
};

} // namespace upm::upmd

#endif // UPM_UPMD_SEEDS_HPP
