// SPDX-License-Identifier: MIT
//
// What libupm-cuda and upm-cudad say to each other: one SOCK_SEQPACKET message for
// each request and each answer, descriptors by SCM_RIGHTS. A connection is a
// domain's member on one device, and owns leases and reservations, which end with it.
//
//   kHello    -> kWelcome  (first, once)
//   kFind     -> kFound    items in the same order; descriptors of the kShared ones
//   kPublish  -> kDone     takes one descriptor for each item; they become leases
//   kAbandon  -> kDone     gives reservations back
//   kRelease               gives leases back; not answered
//   kStats    -> kCounters
//
// A member that finds nothing holds a reservation and is expected to publish or to
// abandon; until then others get kBusy, or, with `wait`, their answer when it is
// decided. After a quarter of a second whoever asks takes the reservation over, and a
// publication that comes too late is answered ESTALE. A request with `wait` has one item,
// and its sender must hold no reservation: so nobody waits for somebody who waits.
#ifndef UPM_CUDA_BROKER_PROTOCOL_HPP
#define UPM_CUDA_BROKER_PROTOCOL_HPP

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <sys/types.h>

namespace upm::cuda::broker {

inline constexpr std::uint32_t kMagic = 0x43504d55; // "UMPC"
inline constexpr std::uint16_t kVersion = 2;
inline constexpr std::size_t kMaxItems = 64; // and descriptors, in one message

enum class Type : std::uint16_t {
    kHello = 1,
    kWelcome,
    kFind,
    kFound,
    kPublish,
    kAbandon,
    kRelease,
    kDone,
    kStats,
    kCounters,
};

enum class State : std::uint32_t {
    kRefused,  // a limit
    kShared,   // known: `id` is a lease, and a descriptor comes with it
    kReserved, // new: `id` is a reservation
    kBusy,     // somebody else is about to publish it
};

struct Header {
    std::uint32_t magic = kMagic;
    Type type = Type::kDone;
    std::uint16_t count = 0; // items that follow
    std::int32_t error = 0;  // answers: errno, 0 for success
    std::uint32_t wait = 0;  // kFind
};

struct Hello {
    std::uint16_t version = kVersion;
    std::uint8_t reserved[6] = {};
    std::uint8_t domain[16] = {}; // key, zero: the sender's uid
    std::uint8_t device[16] = {}; // UUID: memory of two devices is never shared
};

struct Welcome {
    std::uint64_t seed_low = 0; // of the domain's tags
    std::uint64_t seed_high = 0;
    std::int32_t pid = 0;
    std::uint32_t reserved = 0;
};

struct Content {
    std::uint64_t bytes = 0;
    std::uint64_t tag_low = 0;
    std::uint64_t tag_high = 0;
};

struct Answer {
    State state = State::kRefused;
    std::uint32_t reserved = 0;
    std::uint64_t id = 0;
};

using Id = std::uint64_t; // items of kPublish, kAbandon, kRelease

struct Counters {
    std::uint64_t extents = 0; // known now, in all domains
    std::uint64_t bytes = 0;   // of device memory in them
    std::uint64_t leases = 0;
    std::uint64_t reservations = 0;
    std::uint64_t members = 0; // connections
    std::uint64_t domains = 0;
    std::uint64_t found = 0; // since the start
    std::uint64_t published = 0;
    std::uint64_t refused = 0;
};

inline constexpr std::size_t kMaxBytes = sizeof(Header) + kMaxItems * sizeof(Content);

// A message and the descriptors that came, or go, with it. Owns neither.
struct Message {
    Header header;
    alignas(8) unsigned char body[kMaxBytes] = {};
    std::size_t body_bytes = 0;
    int fds[kMaxItems] = {};
    std::size_t fd_count = 0;
    bool fds_cut = false; // some could not be received for lack of descriptors

    template <class Item>
    [[nodiscard]] const Item *items() const noexcept {
        return reinterpret_cast<const Item *>(body);
    }
    template <class Item>
    [[nodiscard]] bool holds(std::size_t count) const noexcept {
        return header.count == count && body_bytes == count * sizeof(Item);
    }
    template <class Item>
    void append(const Item &item) noexcept {
        *reinterpret_cast<Item *>(body + body_bytes) = item;
        body_bytes += sizeof(Item);
        ++header.count;
    }
};

// A message as the bytes of a packet, of which there must be room for kMaxPacket; how
// many they are. And back: false for what is no message.
inline constexpr std::size_t kMaxPacket = sizeof(Header) + kMaxBytes;
std::size_t pack(const Message &message, std::span<std::byte> packet) noexcept;
bool unpack(std::span<const std::byte> packet, Message &message) noexcept;

// 0 or an errno. A peer that is gone: EPIPE. Descriptors stay the sender's. Flags as for
// sendmsg(2).
int send_message(int socket, const Message &message, int flags = 0) noexcept;

// 0 or an errno; EPIPE at the end of the stream, EPROTO for what is no message. On
// an error no descriptor is left open.
int receive_message(int socket, Message &message) noexcept;

void close_fds(Message &message) noexcept;

// The place where upm-cudad listens.
std::string socket_path();

} // namespace upm::cuda::broker

#endif // UPM_CUDA_BROKER_PROTOCOL_HPP
