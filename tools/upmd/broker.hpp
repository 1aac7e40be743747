// SPDX-License-Identifier: MIT
//
// What the broker answers: requests of libupm/store/wire.hpp, reservations, and who
// may have which segment. No sockets, no clock and no waiting in here, so that tests
// and the fuzzer can drive it. It never looks at the content of a segment, and no
// client has to trust it: see docs/store.md.
#ifndef UPM_UPMD_BROKER_HPP
#define UPM_UPMD_BROKER_HPP

#include "libupm/store/wire.hpp"
#include "tools/upmd/alone.hpp"
#include "tools/upmd/backlog.hpp"
#include "tools/upmd/catalog.hpp"
#include "tools/upmd/ledger.hpp"
#include "tools/upmd/maker.hpp"
#include "tools/upmd/seeds.hpp"
#include "tools/upmd/usage.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <sys/types.h>
#include <vector>

namespace upm::upmd {

// A client as its connection shows it.
struct Peer {
    uid_t uid = 0;
    std::uint64_t process = 0;       // the same for all connections of one process
    std::string domain;              // its default one
    std::string label;               // the same for people
    bool sees_all = false;           // may read the metrics of all domains
    bool ours = false;               // is in the namespaces of the broker
    std::vector<Descriptor> anchors; // keep the numbers in `domain` from being used again
};

// A packet for a client; fd is -1 or stays the broker's.
using Send = std::function<void(ClientId, std::span<const std::byte> packet, int fd)>;

// Has a segment made for a user; made() gets what comes of it. A task without pages only
// has its file closed, which may take as long as a stranger likes.
// `quietly`: in the background, and made_late() gets it.
using Make = std::function<void(uid_t, MakeTask, bool quietly)>;

// Is told of each request that is refused, and why; the text has storage of its own.
using Refused = std::function<void(uid_t, const char *why)>;

// The descriptor that came with a packet, or why there is none.
struct Brought {
    Descriptor fd;
    int error = 0; // EMFILE: there was no room for it; EINVAL: it is no memfd
};

class Broker {
  public:
    // `random` gives the seeds of hashes and tables; tests have their own.
    Broker(const Limits &limits, Send send, std::function<std::uint64_t()> random, Make make = {});
    ~Broker();
    Broker(const Broker &) = delete;
    Broker &operator=(const Broker &) = delete;

    // Times are ms of a clock that only goes forward, and begins above 0.
    ClientId connect(Peer peer);
    void disconnect(ClientId id, std::uint64_t now);

    // Answers by `send`, at once or later. False: the packet is not of this protocol,
    // and the client is to be disconnected.
    [[nodiscard]] bool handle(ClientId id, std::span<const std::byte> packet, Brought brought,
                              std::uint64_t now);

    // A task of `make` is done.
    void made(Made result, std::uint64_t now);
    void made_late(Made result, std::uint64_t now) { backlog_.done(std::move(result), now); }

    // Ends what is over, and gives the time of the next call (0: none is needed).
    std::uint64_t expire(std::uint64_t now);

    // From now on free memory is plenty, or not: while it is, no content becomes known that
    // is not, but for seeds. What is known is shared as ever.
    void set_plenty(bool plenty) { plenty_ = plenty; }

    // Of what is refused, and of clients that handle() ends.
    void tell_of_refusals(Refused refused) { refused_ = std::move(refused); }
    // It came to no connect().
    void refuse_connection(uid_t uid, const char *why);

    // When to look at which process, and what was seen there.
    [[nodiscard]] Usage &usage() { return usage_; }
    // Those that end with this broker.
    [[nodiscard]] const Seeds &seeds() const { return seeds_; }

    [[nodiscard]] bool idle() const { return clients_.empty() && catalog_.segments().empty(); }
    [[nodiscard]] std::size_t clients() const { return clients_.size(); }

    // In Prometheus' text format: what a client may see, or everything.
    [[nodiscard]] std::string metrics(ClientId id) const;
    [[nodiscard]] std::string metrics() const;

    // For tests: that all sums are what the parts say.
    [[nodiscard]] bool consistent() const;

  private:
    struct Client;
    struct Job;
    struct Parked;

    bool hello(Client &client, const store::Header &header, std::span<const std::byte> packet);
    void join(Client &client, const store::HelloRequest &request);
    bool dispatch(Client &client, const store::Header &header, std::span<const std::byte> packet,
                  Brought brought, std::uint64_t now);
    bool lookup(Client &client, std::span<const std::byte> packet, std::uint64_t now);
    bool get(Client &client, std::span<const std::byte> packet, std::uint64_t now);
    bool publish(Client &client, std::span<const std::byte> packet, Brought brought,
                 std::uint64_t now);
    bool make(Client &client, std::span<const std::byte> packet, Brought brought);
    bool late(Client &client, std::span<const std::byte> packet, Brought brought,
              std::uint64_t now);
    void close_in_thread(uid_t uid, Descriptor file);
    [[nodiscard]] Backlog::Hooks backlog_hooks();
    [[nodiscard]] int admit(const Client &client, const Brought &brought,
                            const store::MakeRequest &request) const;
    Job &begin_job(const Client &client, const store::MakeRequest &request, Descriptor file);
    // Pages that the client may have made, publish or reserve now.
    [[nodiscard]] std::uint64_t room(const Client &client) const;
    [[nodiscard]] bool waits_for_want(const Client &client) const;
    // `error` is what the client is told, of a request for so many pages.
    void count_refusal(const Client &client, int error, std::uint64_t pages);
    void refuse(uid_t uid, const char *why);
    void tell(uid_t uid, const char *why) const;
    void hand_out(const Client &client, Segment &segment, bool published, std::uint64_t now);
    [[nodiscard]] std::uint64_t alone_room(const Owner &owner) const;
    void credit(Segment &segment);
    bool report(Client &client, std::span<const std::byte> packet, std::uint64_t now);
    [[nodiscard]] static bool may_see(const Client &client, const Seed &seed);
    [[nodiscard]] static bool may_steer(const Client &client, const Seed &seed);
    bool seed(Client &client, std::span<const std::byte> packet, std::uint64_t now);
    void begin_seed(Client &client, const store::SeedRequest &request, std::uint64_t now);
    void end_seed(Client &client, const store::SeedRequest &request, std::uint64_t now);
    void drop_seeds(Client &client, const store::SeedRequest &request, std::uint64_t now);
    void list_seeds(Client &client, const store::Header &header, std::uint64_t now);
    [[nodiscard]] store::SeedReply about_seeds(const Client &client, std::uint64_t now) const;
    [[nodiscard]] store::SeedEntry entry_of(const Client &client, const Seed &seed) const;
    void reply_entries(const Client &client, const store::Header &header, store::SeedReply answer,
                       const std::vector<store::SeedEntry> &entries) const;
    void stats(const Client &client, const store::Header &header) const;
    void describe(const Client &client, const store::Header &header) const;

    void answer_lookup(Client &client, const Parked &request, std::uint64_t now);
    [[nodiscard]] std::uint32_t want(Client &client, std::uint64_t hash);
    void forget_wanted(Client &client, std::size_t most);
    void park(Client &client, Parked request);
    void unpark(Client &client, std::uint64_t now);
    void wake_parked(Domain &domain, std::uint64_t now);
    [[nodiscard]] int admit(const Client &client, const Brought &brought, std::uint32_t pages,
                            std::uint64_t &inode) const;
    [[nodiscard]] std::uint32_t name(Client &client, SegmentId segment);
    void drop(Segment &segment);
    [[nodiscard]] bool charge(Segment &segment, const Owner &owner);
    void end_reservation(Client &client, std::uint64_t now);

    void fail(const Client &client, const store::Header &header, int error) const;
    template <class Reply>
    void reply(const Client &client, const store::Header &header, Reply body, int fd = -1,
               std::size_t size = sizeof(Reply)) const;
    void send_whole(const Client &client, const store::Header &header, store::ReplyHeader &head,
                    std::span<std::byte> packet, int fd) const;

    Limits limits_;
    Send send_;
    Refused refused_;
    std::function<std::uint64_t()> random_;
    Catalog catalog_;
    Ledger ledger_;
    Usage usage_;
    Seeds seeds_;
    std::uint64_t began_ = 0; // the first time that is known
    std::map<ClientId, std::unique_ptr<Client>> clients_;
    ClientId last_client_ = 0;
    Make make_;
    std::map<std::uint64_t, std::unique_ptr<Job>> jobs_;
    std::uint64_t last_job_ = 0;
    Alone alone_;
    Backlog backlog_; // of what loads were too late for
    bool plenty_ = false;
    std::uint64_t next_ = 0; // no reservation and no patience ends before; 0: none does

    struct Totals {
        std::uint64_t hits = 0;      // pages that were asked for and known
        std::uint64_t misses = 0;    // and those that were not
        std::uint64_t waits = 0;     // requests that waited for another client
        std::uint64_t published = 0; // pages
        std::uint64_t made = 0;      // pages, of files that clients loaded
        std::uint64_t refused = 0;   // by quota, or a segment that is not as it must be
        std::uint64_t connections_refused = 0;
        std::uint64_t put_off = 0; // while free memory was plenty
        std::uint64_t bad = 0;     // packets that are not of the protocol
        std::uint64_t reservations_lost = 0;
        std::uint64_t dropped = 0; // segments
    };
    Totals totals_;
};

} // namespace upm::upmd

#endif // UPM_UPMD_BROKER_HPP
