// SPDX-License-Identifier: MIT
//
// What the broker knows and decides: domains, segments, reservations, quotas. No
// sockets, no clock and no waiting in here, so that tests and the fuzzer can drive
// it. It never looks at the content of a segment, and no client has to trust it:
// see docs/store.md.
#ifndef UPM_UPMD_BROKER_HPP
#define UPM_UPMD_BROKER_HPP

#include "libupm/store/wire.hpp"
#include "tools/broker/packet_server.hpp"

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <sys/types.h>
#include <unordered_map>
#include <vector>

namespace upm::upmd {

struct Limits {
    std::uint64_t quota_pages = 0;      // of one user, published and reserved
    std::uint64_t max_pages = 0;        // of all users
    std::uint32_t max_segments = 65536; // each holds one descriptor
    std::uint64_t expire_ms = 300'000;  // after the last client that uses it
    std::uint64_t lease_ms = 10'000;    // of a reservation
};

using broker::ClientId;
using broker::Descriptor;

// A packet for a client; fd is -1 or stays the broker's.
using Send = std::function<void(ClientId, std::span<const std::byte> packet, int fd)>;

class Broker {
  public:
    // A source of seeds for hashes; tests give their own.
    Broker(const Limits &limits, Send send, std::function<std::uint64_t()> random);
    ~Broker();
    Broker(const Broker &) = delete;
    Broker &operator=(const Broker &) = delete;

    // Times are ms of a clock that only goes forward.
    ClientId connect(uid_t uid);
    void disconnect(ClientId id, std::uint64_t now);

    // Answers by `send`, at once or later. False: the packet is none of this
    // protocol, and the client is to be disconnected.
    [[nodiscard]] bool handle(ClientId id, std::span<const std::byte> packet, Descriptor fd,
                              std::uint64_t now);

    // Ends what is over, and gives the time of the next call (0: none is needed).
    std::uint64_t expire(std::uint64_t now);

    [[nodiscard]] bool idle() const { return clients_.empty() && segments_.empty(); }
    [[nodiscard]] std::size_t clients() const { return clients_.size(); }

    // In Prometheus' text format; what `uid` may see: its own, root everything.
    [[nodiscard]] std::string metrics(uid_t uid) const;

    // For tests: that all sums are what the parts say.
    [[nodiscard]] bool consistent() const;

  private:
    struct Domain;
    struct Segment;
    struct Client;
    struct Parked;
    struct User { // pages that one user has published or reserved
        std::uint64_t pages = 0;
        std::uint64_t clients = 0;
    };

    bool hello(Client &client, const store::Header &header, std::span<const std::byte> packet);
    bool dispatch(Client &client, const store::Header &header, std::span<const std::byte> packet,
                  Descriptor fd, std::uint64_t now);
    bool lookup(Client &client, std::span<const std::byte> packet, std::uint64_t now);
    bool get(Client &client, std::span<const std::byte> packet);
    bool publish(Client &client, std::span<const std::byte> packet, Descriptor fd,
                 std::uint64_t now);
    bool report(Client &client, std::span<const std::byte> packet);
    void stats(Client &client, const store::Header &header);

    bool answer_lookup(Client &client, const store::Header &header, std::uint32_t flags,
                       std::span<const std::uint64_t> hashes, std::uint64_t now);
    [[nodiscard]] int admit(const Client &client, int fd, std::uint32_t pages) const;
    void add_segment(Client &client, std::span<const std::uint64_t> hashes, Descriptor fd,
                     std::uint32_t id);
    std::uint32_t free_id();
    static void use(Client &client, Segment &segment);
    void drop(std::uint32_t id);
    void drop_domain(Domain &domain);
    void end_lease(Client &client);
    void wake_parked(Domain &domain, std::uint64_t now);
    [[nodiscard]] std::uint64_t allowed(const Client &client) const;

    void fail(const Client &client, const store::Header &header, int error) const;
    template <class Reply>
    void reply(const Client &client, const store::Header &header, Reply body, int fd = -1) const;

    Limits limits_;
    Send send_;
    std::function<std::uint64_t()> random_;
    std::map<ClientId, std::unique_ptr<Client>> clients_;
    std::map<std::uint32_t, std::unique_ptr<Segment>> segments_;
    std::map<std::string, std::unique_ptr<Domain>> domains_;
    std::map<uid_t, User> users_;
    ClientId last_client_ = 0;
    std::uint32_t last_segment_ = 0;
    std::uint64_t pages_ = 0; // published and reserved, of all users

    struct Totals {
        std::uint64_t hits = 0;      // pages that were asked for and known
        std::uint64_t misses = 0;    // and those that were not
        std::uint64_t waits = 0;     // requests that waited for another client
        std::uint64_t published = 0; // pages
        std::uint64_t refused = 0;   // by quota, or a segment that is not as it must be
        std::uint64_t bad = 0;       // packets that are none of the protocol
        std::uint64_t leases_lost = 0;
        std::uint64_t expired = 0; // segments
    } totals_;
};

} // namespace upm::upmd

#endif // UPM_UPMD_BROKER_HPP
