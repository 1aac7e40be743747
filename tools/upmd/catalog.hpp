// SPDX-License-Identifier: MIT
//
// Domains, the segments in them, and which page has which hash. Several segments may
// hold a page of one hash: the first stays the one that is told, since others may use
// it already, and when it goes another one takes its place. Those pages form a list,
// so that each is found and forgotten in constant time, whatever somebody publishes.
#ifndef UPM_UPMD_CATALOG_HPP
#define UPM_UPMD_CATALOG_HPP

#include "tools/broker/packet_server.hpp"
#include "tools/upmd/keyed_hash.hpp"
#include "tools/upmd/ledger.hpp"

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

namespace upm::upmd {

using broker::ClientId;
using broker::Descriptor;
using SegmentId = std::uint32_t; // the broker's own number; clients have others

struct Ref {
    SegmentId segment = 0; // 0: none
    std::uint32_t page = 0;
    friend bool operator==(const Ref &, const Ref &) = default;
};

struct Domain;

struct SegmentPage {
    std::uint64_t hash = 0;
    Ref before; // of the pages with this hash; none: this one is told
    Ref after;
};

struct Segment {
    SegmentId id = 0;
    Descriptor fd;
    std::uint64_t inode = 0; // by which mappings show it
    Domain *domain = nullptr;
    Owner owner; // whose quota it takes
    std::vector<SegmentPage> pages;
    std::uint64_t users = 0;  // clients that have it
    std::uint64_t mapped = 0; // pages, in all of them
    bool shared = false;      // a second process had it
    bool made = false;        // by this broker, from a file
    bool alone = false;       // counts as made for nobody but its owner
    std::uint64_t unused_since = 0;
    std::vector<std::uint64_t> seeds; // that keep it; its owner is that of the first one
    std::vector<std::uint64_t> waits; // processes that were late with it, and keep it

    // Returns true if it stays though nobody uses it.
    [[nodiscard]] bool kept() const { return !seeds.empty() || !waits.empty(); }

    [[nodiscard]] std::uint64_t saved() const {
        return mapped > pages.size() ? mapped - pages.size() : 0;
    }
};

template <class Value>
using HashTable = std::unordered_map<std::uint64_t, Value, KeyedHash>;

struct Domain {
    std::uint64_t number = 0;        // of no other one, ever
    std::string name;                // what its members have in common
    std::string label;               // the same for people, without a key
    std::vector<Descriptor> anchors; // namespaces, whose numbers stand in the name
    std::uint64_t seed = 0;
    HashTable<Ref> index;
    HashTable<ClientId> reserved;
    HashTable<ClientId> wanted; // who was the first to ask in vain
    std::uint64_t segments = 0;
    std::uint64_t pages = 0;
    std::uint64_t jobs = 0; // that make segments
    std::uint64_t seeds = 0;
    std::uint64_t trimmed = 0; // pages that members gave back to the system, in all
    std::vector<ClientId> members;
    std::deque<ClientId> parked; // in the order of their requests
};

class Catalog {
  public:
    explicit Catalog(const HashKey &key) : key_(key) {}

    // The domain of that name, made if there is none: `made` says so.
    Domain &domain(const std::string &name, bool &made);
    // Forgets a domain that has no members, segments, jobs and seeds.
    void leave(Domain &domain);

    // Nobody finds its pages before enter(), which takes a while.
    Segment &add(Domain &domain, const Owner &owner, std::span<const std::uint64_t> hashes,
                 Descriptor fd, std::uint64_t inode);
    void enter(const Segment &segment);
    void remove(Segment &segment);

    [[nodiscard]] Segment *find(SegmentId id) const;
    [[nodiscard]] Segment *by_inode(std::uint64_t inode) const;
    // Post: its segment is 0 if nobody has published it.
    [[nodiscard]] static Ref find(const Domain &domain, std::uint64_t hash);

    // Another page with the hash of this one, if there is one.
    [[nodiscard]] Ref after(const Ref &ref) const {
        return ref.segment != 0 ? segments_.at(ref.segment)->pages.at(ref.page).after : Ref{};
    }

    [[nodiscard]] const auto &domains() const { return domains_; }
    [[nodiscard]] const auto &segments() const { return segments_; }

    // For tests: that each page of each segment is in its domain's index, and nothing
    // else.
    [[nodiscard]] bool consistent() const;

  private:
    SegmentPage &at(const Ref &ref) { return segments_.at(ref.segment)->pages.at(ref.page); }
    void link(Domain &domain, const Ref &ref);
    void unlink(Domain &domain, const SegmentPage &page);

    HashKey key_; // of all tables
    std::map<std::string, std::unique_ptr<Domain>> domains_;
    std::unordered_map<SegmentId, std::unique_ptr<Segment>> segments_;
    std::unordered_map<std::uint64_t, SegmentId> inodes_;
    SegmentId last_ = 0;
    std::uint64_t last_domain_ = 0;
};

} // namespace upm::upmd

#endif // UPM_UPMD_CATALOG_HPP
