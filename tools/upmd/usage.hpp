// SPDX-License-Identifier: MIT
//
// Which client uses which segment, and so when a segment goes: as soon as nobody uses
// it, unless a seed or a process that was late with it keeps it, or a second process had it and
// the operator wants such content kept.
//
// A client uses a segment from when it gets the descriptor until it reports that it has
// unmapped all of it, or ends, or a look at the mappings of its process shows none. The
// looks are somebody else's work (tools/upmd/watcher.hpp); this class says when.
#ifndef UPM_UPMD_USAGE_HPP
#define UPM_UPMD_USAGE_HPP

#include "tools/upmd/catalog.hpp"

#include <functional>
#include <unordered_map>
#include <vector>

namespace upm::upmd {

// What a process maps of segments.
struct Look {
    std::unordered_map<std::uint64_t, std::uint64_t> pages; // by inode
    bool readable = false;                                  // false: its mappings cannot be read
    bool any = false;                                       // there are mappings at all
    bool complete = false;                                  // false: it has more than are looked at
    bool gone = false;                                      // the process has ended
};

class Usage {
  public:
    struct Hooks {
        std::function<void(Segment &)> drop; // ends a segment that nobody uses
        std::function<void(Segment &)> seen; // gets one that its owner maps
        // Has somebody else pay for a segment. Returns false if there is no room.
        std::function<bool(Segment &, const Owner &)> charge;
    };
    Usage(const Limits &limits, Catalog &catalog, Hooks hooks)
        : limits_(limits), catalog_(catalog), hooks_(std::move(hooks)) {}

    void enter(ClientId id, const Owner &owner, const Domain &domain);
    void leave(ClientId id, std::uint64_t now);

    // `published`: it is the client's own.
    void use(ClientId id, Segment &segment, bool published, std::uint64_t now);
    // By the client: so many pages more, or fewer.
    void report(ClientId id, SegmentId segment, std::int64_t pages, std::uint64_t now);
    // Ends the segment if nobody uses or keeps it, at once or later. If processes of other users
    // than its owner's are all that use it, one of these users pays from now on.
    void let_go(Segment &segment, std::uint64_t now);
    // The second half of that.
    void find_payer(Segment &segment);
    // It has unmapped something, whatever that was.
    void unmapped(ClientId id, std::uint64_t now);
    // Whether it maps what was made for it is to be known at once.
    void look_now(ClientId id, std::uint64_t now);

    // Processes whose mappings are to be looked at now. For each of them seen() follows.
    std::vector<std::uint64_t> take_due(std::uint64_t now);
    // Of a process, by its number. `started`: when the look began; what came later is not
    // judged.
    void seen(std::uint64_t number, const Look &look, std::uint64_t started, std::uint64_t now);

    // Ends what was kept for long enough. The time of the next call of this or of
    // take_due(); 0: there is none.
    std::uint64_t expire(std::uint64_t now);

    // For tests: that users and mapped pages of the segments are what the parts say.
    [[nodiscard]] bool consistent() const;

  private:
    struct Use {
        std::uint64_t mapped = 0; // pages
        std::uint64_t since = 0;
    };
    struct Client {
        Owner owner;
        const Domain *domain;
        std::unordered_map<SegmentId, Use> uses;
    };
    struct Process {
        std::vector<ClientId> clients;
        std::uint64_t look_at = 0; // 0: not wanted
        bool looking = false;
    };

    void begin(Client &client, Segment &segment, std::uint64_t pages, std::uint64_t now);
    void release(Client &client, SegmentId id, std::uint64_t now);
    static void set(Segment &segment, Use &use, std::uint64_t pages);
    void want_look(Process &process, std::uint64_t at);
    void wanted(std::uint64_t time) { next_ = next_ == 0 ? time : std::min(next_, time); }
    void judge(const Process &process, const Look &look, std::uint64_t started, std::uint64_t now);
    void adopt(const Process &process, const Look &look, std::uint64_t now);
    [[nodiscard]] bool uses_any(const Process &process) const;

    Limits limits_;
    Catalog &catalog_;
    Hooks hooks_;
    std::unordered_map<ClientId, Client> clients_;
    std::unordered_map<std::uint64_t, Process> processes_;
    std::uint64_t next_ = 0; // nothing is due before; 0: nothing is due at all
};

} // namespace upm::upmd

#endif // UPM_UPMD_USAGE_HPP
