// SPDX-License-Identifier: MIT
//
// What the broker knows: extents by content, who leases them, who has promised to
// publish them. Plain data, no sockets and no clock, so that it can be tested by itself.
#ifndef UPM_CUDA_BROKER_STORE_HPP
#define UPM_CUDA_BROKER_STORE_HPP

#include "cuda-cow/broker/protocol.hpp"

#include <array>
#include <chrono>
#include <compare>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

namespace upm::cuda::broker {

struct Limits {
    std::size_t extents = 65536;     // each costs the broker a descriptor
    std::size_t user_extents = ~0UL; // published or promised by processes of one user
    std::uint64_t domain_bytes = 0;  // device memory for each domain, 0: no limit
    std::uint64_t keep_bytes = 0;    // of extents that nobody leases, oldest go first
    std::size_t promises = 256;      // reservations of one member at once
    // How old a reservation may get before whoever asks next takes it over: its holder may
    // be in a container that was frozen, and no container may hold up all others.
    std::chrono::milliseconds patience{250};
};

using Time = std::chrono::steady_clock::time_point;

using Member = std::uint64_t; // a connection

class Store {
  public:
    explicit Store(Limits limits) : limits_(limits) {}
    Store(const Store &) = delete;
    Store &operator=(const Store &) = delete;
    ~Store();

    // Domain names are made by the server: of a key or of a uid. The seed of a new
    // domain is random.
    int join(Member member, const std::string &domain, const std::uint8_t (&device)[16],
             Welcome &welcome, uid_t user = 0);
    // Ends all that the member held.
    void leave(Member member);

    // For kShared `fd` is the store's own descriptor, to be sent.
    Answer find(Member member, const Content &content, Time now, int &fd);
    // When the oldest reservation can be taken over; nothing: there is none.
    [[nodiscard]] std::optional<Time> next_overdue() const;
    // Takes the descriptor over in any case. 0, or an errno: ESTALE (no such
    // reservation of this member, or no more), ENOSPC (a limit; the reservation is gone).
    int publish(Member member, Id reservation, int fd);
    int abandon(Member member, Id reservation);
    int release(Member member, Id lease);
    // Takes a publication back that nobody else has seen yet.
    void unpublish(Member member, Id lease);

    [[nodiscard]] bool holds_reservation(Member member) const;
    [[nodiscard]] Counters counters() const;

  private:
    struct Key {
        std::string domain;
        std::array<std::uint8_t, 16> device;
        std::uint64_t bytes, low, high;
        auto operator<=>(const Key &) const = default; // NOLINT(modernize-use-nullptr)
    };
    struct Extent {
        int fd = -1; // -1: only promised
        std::uint64_t leases = 0;
        std::uint64_t unused_since = 0; // a counter, not a time; 0: in use, or promised
        Id promise = 0;                 // the reservation, while only promised
        Time promised{};
        uid_t user = 0; // of who promised it
    };
    struct Holding {
        Member member = 0;
        std::map<Key, Extent>::iterator extent;
    };
    struct Joined {
        std::string domain;
        std::array<std::uint8_t, 16> device{};
        uid_t user = 0;
        std::set<Id> leases;
        std::set<Id> reservations;
    };
    struct Domain {
        std::uint64_t seed_low = 0, seed_high = 0;
        std::uint64_t bytes = 0;
        std::uint64_t members = 0;
        std::uint64_t extents = 0;
    };

    Answer promise(Member member, std::map<Key, Extent>::iterator extent, Time now);
    void forget(std::map<Key, Extent>::iterator extent);
    void drop_lease(std::map<Key, Extent>::iterator extent);
    void take_into_use(std::map<Key, Extent>::iterator extent);
    void trim();
    void forget_domain_if_unused(const std::string &name);
    [[nodiscard]] bool full(const Key &key, uid_t user) const;
    void charge(Extent &extent, uid_t user);
    void discharge(uid_t user);

    Limits limits_;
    std::map<std::string, Domain> domains_;
    std::map<Member, Joined> members_;
    std::map<Key, Extent> extents_;
    std::map<uid_t, std::size_t> users_; // extents of each, without those that have none
    std::map<std::uint64_t, std::map<Key, Extent>::iterator> unused_; // by unused_since
    std::map<Id, Holding> leases_;
    std::map<Id, Holding> reservations_;
    Id next_id_ = 1;
    std::uint64_t clock_ = 0;
    std::uint64_t bytes_ = 0;
    std::uint64_t unused_bytes_ = 0;
    Counters counters_;
};

} // namespace upm::cuda::broker

#endif // UPM_CUDA_BROKER_STORE_HPP
