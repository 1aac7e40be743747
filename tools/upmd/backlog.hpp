// SPDX-License-Identifier: MIT
//
// What loads were too late for: parts of files that the broker makes segments of in the
// background, once two living processes want them, so that later processes find all of it.
// What is made, and what is known of the part already, is kept until the process ends that
// brought the file.
//
// A client brings a file and a hope. Nothing here waits for it, and what it can hold is bounded:
// files, by Limits::user_late; pages, by its quotas and by what is made for one alone; what it
// has asked for, by Limits::client_wanted.
#ifndef UPM_UPMD_BACKLOG_HPP
#define UPM_UPMD_BACKLOG_HPP

#include "libupm/store/wire.hpp"
#include "tools/upmd/alone.hpp"
#include "tools/upmd/catalog.hpp"
#include "tools/upmd/ledger.hpp"
#include "tools/upmd/maker.hpp"

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <unordered_map>
#include <unordered_set>
#include <utility>

namespace upm::upmd {

class Backlog {
  public:
    struct Hooks {
        // Has a task done in the background; done() gets what comes of it.
        std::function<void(uid_t, MakeTask)> work;
        // Has a file closed, which may take as long as a stranger likes.
        std::function<void(uid_t, Descriptor)> close;
        // Pages that may be made for this owner now.
        std::function<std::uint64_t(const Owner &)> room;
        // Nobody keeps the segment any more.
        std::function<void(Segment &, std::uint64_t now)> release;
    };
    Backlog(const Limits &limits, Catalog &catalog, Ledger &ledger, Alone &alone, Hooks hooks)
        : limits_(limits), catalog_(catalog), ledger_(ledger), alone_(alone),
          hooks_(std::move(hooks)) {}

    // A process was late with a part of a file. Post: the file is closed, or will be.
    void add(Domain &domain, const Owner &owner, const store::LateRequest &request, Descriptor file,
             std::uint64_t now);
    // A task of `work` is done.
    void done(Made result, std::uint64_t now);
    // Returns true if something of that process is still to be done there.
    [[nodiscard]] bool expects(const Domain &domain, const Owner &owner) const;
    // A segment was made for a process that waits for it no more, and expects it.
    void adopt(Segment &segment) { keep(segment.owner, segment); }
    // The segment is about to go.
    void forget(const Segment &segment);
    void end_of_process(std::uint64_t process, std::uint64_t now);

    [[nodiscard]] std::size_t files() const { return orders_.size(); }
    [[nodiscard]] std::uint64_t made() const { return made_; }

    // For tests: that segments and processes agree. Adds what they take to `sums`.
    [[nodiscard]] bool consistent(Ledger &sums) const;

  private:
    // A part of a file, of which one window after the other is looked for and made.
    struct Order {
        std::uint64_t number = 0;
        Domain *domain = nullptr;
        Owner owner;
        store::LateRequest request;
        Descriptor file; // not while a thread has it
        std::uint64_t until = 0;
        std::uint64_t next = 0;     // page
        std::uint32_t window = 0;   // pages from there on
        std::uint64_t reserved = 0; // pages, while they are being made
        bool over = false;          // its process has ended
    };
    using Key = std::pair<std::uint64_t, std::uint64_t>; // a domain's number, a likeness
    struct Process {
        std::deque<std::pair<Key, uid_t>> asked;
        std::unordered_set<SegmentId> kept;
    };

    bool wanted(const Domain &domain, const Owner &owner, std::uint64_t likeness);
    [[nodiscard]] bool may_begin(const Domain &domain, const Owner &owner,
                                 std::uint64_t likeness) const;
    void step(Order &order, std::uint64_t now);
    void end(Order &order);
    void looked(Order &order, const store::Sample &sample, std::uint64_t now);
    void take_made(Order &order, Made &result);
    void give_work(Order &order, bool look);
    [[nodiscard]] std::uint64_t keep_known(const Order &order, const store::Sample &sample);
    bool keep_all_known(const Order &order, const std::vector<std::uint64_t> &hashes);
    void keep(const Owner &owner, Segment &segment);

    Limits limits_;
    Catalog &catalog_;
    Ledger &ledger_;
    Alone &alone_;
    Hooks hooks_;
    std::map<std::uint64_t, Order> orders_;
    std::uint64_t last_ = 0;
    std::map<Key, std::uint64_t> asked_; // the process that was the first to ask
    std::unordered_map<std::uint64_t, Process> processes_;
    std::uint64_t made_ = 0; // pages, in all
};

} // namespace upm::upmd

#endif // UPM_UPMD_BACKLOG_HPP
