// SPDX-License-Identifier: MIT
//
// What the broker knows of one connection. Included by the broker's own sources only.
#ifndef UPM_UPMD_CLIENT_HPP
#define UPM_UPMD_CLIENT_HPP

#include "tools/upmd/broker.hpp"

#include <deque>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

namespace upm::upmd {

// The numbers by which a client knows segments. A client gets one when a page whose
// hash it has named lies in the segment, and can do nothing with any other number: so
// it cannot read what it does not know, however it counts.
class Names {
  public:
    [[nodiscard]] std::optional<std::uint32_t> find(SegmentId segment) const {
        const auto found = names_.find(segment);
        return found != names_.end() ? std::optional(found->second) : std::nullopt;
    }
    [[nodiscard]] SegmentId segment(std::uint32_t name) const {
        const auto found = segments_.find(name);
        return found != segments_.end() ? found->second : 0;
    }
    std::uint32_t add(SegmentId segment) {
        do
            last_ = last_ < store::kLastSegment ? last_ + 1 : 1;
        while (segments_.contains(last_));
        names_.emplace(segment, last_);
        segments_.emplace(last_, segment);
        return last_;
    }
    // False: it had none.
    bool forget(SegmentId segment) {
        const auto found = names_.find(segment);
        if (found == names_.end())
            return false;
        segments_.erase(found->second);
        names_.erase(found);
        return true;
    }
    [[nodiscard]] std::size_t size() const { return names_.size(); }

  private:
    std::unordered_map<SegmentId, std::uint32_t> names_;
    std::unordered_map<std::uint32_t, SegmentId> segments_;
    std::uint32_t last_ = 0;
};

// A look-up; it waits while somebody else holds what it asks for.
struct Broker::Parked {
    store::Header header;
    std::uint16_t flags = 0;
    std::vector<std::uint64_t> hashes;
    std::uint64_t until = 0;  // when it is answered whatever holds
    std::uint64_t behind = 0; // a hash that somebody else has reserved
};

// A segment that is being made, and for whom.
struct Broker::Job {
    std::uint64_t number = 0;
    Domain *domain = nullptr;
    Owner owner;
    store::MakeRequest request; // the first one
    struct Waiting {
        ClientId client = 0;
        store::Header header; // of its request
    };
    std::vector<Waiting> waiting;
};

struct Broker::Client {
    ClientId id = 0;
    Peer peer;
    Owner owner;
    std::uint16_t version = store::kVersion;
    Domain *domain = nullptr; // after hello
    std::vector<std::uint64_t> reserved;
    std::uint64_t reserved_until = 0;
    std::deque<std::uint64_t> wanted; // hashes that it was the first to ask for in vain
    Names names;
    std::unique_ptr<Parked> parked;
    std::uint64_t job = 0; // that it waits for
    SeedNumber seed = 0;   // that keeps what it gets
};

template <class Reply>
void Broker::reply(const Client &client, const store::Header &header, Reply body, int fd,
                   std::size_t size) const {
    store::ReplyHeader head{};
    if constexpr (std::is_same_v<Reply, store::ReplyHeader>)
        head = body;
    send_whole(client, header, head,
               std::as_writable_bytes(std::span<Reply, 1>(&body, 1)).first(size), fd);
}

} // namespace upm::upmd

#endif // UPM_UPMD_CLIENT_HPP
