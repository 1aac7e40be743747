// SPDX-License-Identifier: MIT
//
// The library's side of the talk with upmd: finding it, starting it, and one request at a time
// on a connection.
#ifndef UPM_STORE_CLIENT_HPP
#define UPM_STORE_CLIENT_HPP

#include "libupm/base/broker_socket.hpp"
#include "libupm/base/gate.hpp"
#include "libupm/store/wire.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <sys/types.h>

namespace upm::store {

using upm::find_socket;
using upm::SocketPath;

// Starts upmd for that socket, and waits for it. 0: it listens; 1: another one has the
// place, and listens or is about to; or -errno: ENOENT (no program upmd), ECHILD (it
// could not do it, or it would become a child of this process, which is PID 1 or a
// subreaper: wait(2) would find it).
int start_broker(const SocketPath &path) noexcept;

// From now on start_broker() starts none in this process, and says -ENOENT.
void start_no_broker() noexcept;
// Returns true after start_no_broker().
bool only_looks() noexcept;
// Returns true if only start_no_broker() stands against it.
bool would_start_broker() noexcept;

// Which domain a connection is for.
struct DomainKey {
    bool named = false;
    std::uint8_t key[16] = {};
    friend bool operator==(const DomainKey &, const DomainKey &) = default;
};

// By which the broker knows the clients of a seed.
using SeedToken = std::array<std::uint8_t, kSeedToken>;

// How long a client waits for an answer, in ms. A look-up that reserves lets the broker
// take kPatienceMs more until others have published.
inline constexpr int kReplyMs = 5'000;
inline constexpr int kPatienceMs = 1'000;
// The same for a broker that is there already, but whose socket is not.
inline constexpr int kOtherMs = 200;

// One connection that a caller has for itself. Every request returns 0 or -errno:
// the broker's own answer, or ECONNRESET, ECONNREFUSED, ENOENT (it is gone),
// ETIMEDOUT, EPROTO (it answered nonsense), EPROTONOSUPPORT (no version in common),
// EACCES (it belongs to another user).
class Connection {
  public:
    Connection() noexcept = default;

    // `patience_ms` bounds each step of it.
    int open(const SocketPath &path, const DomainKey &domain, int patience_ms = kReplyMs) noexcept;
    // What a greeting agrees on: the same on all connections to one broker for one domain.
    struct Terms {
        std::uint16_t version = 0; // 0: nothing is agreed on
        std::uint64_t seed = 0;
    };
    [[nodiscard]] Terms terms() const noexcept { return {.version = version_, .seed = seed_}; }
    // Connects on terms that are known, and does not wait for the answer to the greeting.
    int open_known(const SocketPath &path, const DomainKey &domain, const Terms &terms) noexcept;
    // From the next open() on it is one of a seed's clients.
    void use_seed(const SeedToken &token) noexcept { token_ = token; }
    // Returns true if the descriptor is still the socket that open() made, by the user who
    // is the caller's now: a program may have closed it, and put another file in its place;
    // and to the broker, all that comes here is of the user who connected.
    [[nodiscard]] bool alive() const noexcept;
    void close() noexcept;

    // The first segment among the places of an answer, checked, or nothing: -1. Whoever
    // asks for it owns the descriptor.
    struct Attached {
        int fd = -1;
        std::uint32_t pages = 0;
    };
    // `places` gets one place for each hash. `buffer` is scratch memory of at
    // least kMaxPacket bytes, here and below.
    int lookup(std::span<const std::uint64_t> hashes, bool reserve, std::span<Place> places,
               std::span<std::byte> buffer, Attached *attached = nullptr,
               int patience_ms = kReplyMs) noexcept;
    // The same for hashes of which each comes several times in a row, for several places;
    // first the question, which waits for nothing, then the answer, of as many places. With
    // `remember`, what others asked for in vain as well comes as kWanted. Between the two
    // nothing else may be asked here but report(). ETIMEDOUT: it has not come yet.
    int begin_lookup(std::span<const std::uint64_t> hashes, bool remember,
                     std::span<std::byte> buffer) noexcept;
    // Nobody waits for the answer any more: what is asked next gets its own. Returns false if
    // there is such an answer already.
    bool abandon() noexcept;
    int end_lookup(std::span<Place> places, std::span<std::byte> buffer, Attached &attached,
                   int patience_ms) noexcept;
    // Returns true if the broker remembers what was asked for in vain.
    [[nodiscard]] bool remembers() const noexcept { return version_ > 4; }
    // Asks for a segment of a part of a file, and waits for it, in the same way.
    // EDQUOT, EAGAIN: no room for more; EINVAL: of no such file; ENODATA: it is shorter.
    int begin_make(MakeRequest request, int file) noexcept;
    int end_make(std::uint32_t &segment, Attached &attached, int patience_ms) noexcept;
    // Tells that a part of a file was loaded, and a segment of it came too late. Does not wait,
    // and there is no answer. EOPNOTSUPP: the broker is older than that.
    int late(LateRequest request, int file) noexcept;
    // A checked descriptor of the segment in `fd`, its size in `pages`.
    int get(std::uint32_t segment, int &fd, std::uint32_t &pages,
            int patience_ms = kReplyMs) noexcept;
    int publish(int fd, std::span<const std::uint64_t> hashes, std::uint32_t &segment,
                std::span<std::byte> buffer) noexcept;
    int release() noexcept;
    // These two do not wait: what the broker has no room for is lost.
    int report(std::uint32_t segment, std::int64_t pages) noexcept;
    // Asks the broker to look soon at what this process still maps. For who unmaps.
    int report_unmapped() noexcept { return report(kUnknown, -1); }
    // Tells how much the process has given back to the system by trimming.
    int report_trimmed(std::int64_t pages) noexcept {
        return version_ > 3 ? report(kTrimmed, pages) : 0;
    }
    int stats(StatsReply &stats) noexcept;
    // The entries go to `list`, as far as it has room; `answer.count` says how many. `buffer`
    // as above. EOPNOTSUPP: the broker is older than seeds.
    int seed(SeedRequest request, SeedReply &answer, std::span<SeedEntry> list,
             std::span<std::byte> buffer) noexcept;
    // Text without a terminating zero; its length, or -errno.
    int metrics(std::span<std::byte> buffer) noexcept;

    // From now on, every wait for the broker is outside of this gate, or of none: nullptr.
    // A request whose call may not come in again returns -ECANCELED, whatever came of it.
    void use_gate(Gate *gate) noexcept { gate_ = gate; }
    [[nodiscard]] Gate *gate() const noexcept { return gate_; }

    [[nodiscard]] std::uint64_t seed() const noexcept { return seed_; }
    [[nodiscard]] const DomainKey &domain() const noexcept { return domain_; }

  private:
    class Answer;

    static std::span<std::byte> lookup_packet(LookupRequest request,
                                              std::span<const std::uint64_t> hashes,
                                              std::span<std::byte> buffer) noexcept;
    int take_lookup(Answer &answer, std::span<Place> places, Attached *attached) const noexcept;

    int connect(const SocketPath &path, int patience_ms) noexcept;
    [[nodiscard]] HelloRequest greeting() const noexcept;
    int greet(std::uint16_t version, int patience_ms) noexcept;
    [[nodiscard]] bool is_abandoned(std::span<const std::byte> packet) noexcept;
    template <class Step>
    int patiently(int patience_ms, Step step) const noexcept;
    [[nodiscard]] bool is_over() const noexcept;
    int send(std::span<std::byte> packet, Op op, int fd, int patience_ms) noexcept;
    [[nodiscard]] int wait(int patience_ms) const noexcept;
    int receive(std::span<std::byte> room, int patience_ms, Answer &answer) noexcept;
    int exchange(std::span<std::byte> request, Op op, std::span<std::byte> room, Answer &answer,
                 int fd = -1, int patience_ms = kReplyMs) noexcept;

    // The first half of alive().
    [[nodiscard]] bool ours() const noexcept;

    int fd_ = -1;
    std::uint64_t inode_ = 0; // of the socket
    uid_t user_ = 0;          // who connected
    std::uint32_t number_ = 0;
    std::uint32_t abandoned_ = 0; // the number of a request whose answer is still to come
    std::uint16_t version_ = kVersion;
    std::uint64_t seed_ = 0;
    DomainKey domain_;
    SeedToken token_ = {}; // zeros: none
    Gate *gate_ = nullptr;
};

// Connects, and starts a broker if nobody listens.
int open_connection(Connection &connection, const SocketPath &path,
                    const DomainKey &domain) noexcept;

// Replaces a connection that broke, for the same domain. A wait outside of its gate.
int reopen_connection(Connection &connection, const SocketPath &path) noexcept;

} // namespace upm::store

#endif // UPM_STORE_CLIENT_HPP
