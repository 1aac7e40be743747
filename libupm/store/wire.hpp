// SPDX-License-Identifier: MIT
//
// What libupm and its broker upmd say to each other over a Unix socket of type
// SOCK_SEQPACKET: one packet for a request, one for its reply, in the byte order
// of the machine. Neither side trusts the other: each checks whatever it reads
// (see docs/store.md). The only copy; upmd includes it.
#ifndef UPM_STORE_WIRE_HPP
#define UPM_STORE_WIRE_HPP

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

namespace upm::store {

inline constexpr std::uint32_t kMagic = 0x53'4d'50'55; // "UPMS"
// Each connection speaks the newest version that both sides know; kHello negotiates it.
// A version may add requests, flags and fields that were reserved before, so that the
// version before it stays a part of it. Version 2 could not negotiate: its broker hangs
// up when it is greeted in another one.
inline constexpr std::uint16_t kVersion = 6;
inline constexpr std::uint16_t kOldestVersion = 2;

// Of one request, and so of one segment: 16 MiB in pages of 4 KiB. A publisher
// hands over that much at a time, so that those who wait can begin to merge.
inline constexpr std::uint32_t kMaxPages = 4096;

enum class Op : std::uint16_t {
    kHello = 1, // first on each connection: joins a domain
    kLookup,    // where are pages with these hashes; may reserve the unknown ones
    kGet,       // the descriptor of a segment
    kPublish,   // here is a segment, with the hashes of its pages
    kRelease,   // gives a reservation up
    kReport,    // so many more (or fewer) pages of a segment are mapped; no reply.
                // Segment 0 (since version 3): the client has unmapped something, and
                // the broker is to look at its mappings soon. Segment kTrimmed (since
                // version 4): the client has given so many pages back to the system.
    kStats,     // of the domain
    kMetrics,   // of the broker, as text
    kMake,      // make a segment of a part of this file (since version 3)
    kSeed,      // content that is to stay though nobody maps it (since version 4)
    kLate,      // this part of a file was loaded, and a segment of it came too late: make
                // one when nothing else is to be done; no reply (since version 6)
};

struct Header {
    std::uint32_t magic = kMagic;
    std::uint16_t version = kVersion;
    std::uint16_t op = 0;
    std::uint32_t length = 0; // of the whole packet, in bytes
    std::uint32_t number = 0; // of the request; its reply carries the same
};

// Every reply begins with it; what follows is there only if error is 0.
struct ReplyHeader {
    Header header;
    std::int32_t error = 0; // 0 or -errno
    std::uint32_t reserved = 0;
};

// Where a page is. segment is an identifier, or one of the values below. An identifier
// means something on the connection that it was told on and on no other: a client has
// those of the segments that hold a page whose hash it has named, and nothing to guess.
struct Place {
    std::uint32_t segment = 0;
    std::uint32_t page = 0;
    friend bool operator==(const Place &, const Place &) = default;
};

inline constexpr std::uint32_t kUnknown = 0;            // nobody has published it; with
                                                        // kReserve: another one is about to
inline constexpr std::uint32_t kReserved = 0xffff'ffff; // unknown; yours to publish
inline constexpr std::uint32_t kRefused = 0xffff'fffe;  // unknown; your quota is used up
inline constexpr std::uint32_t kTrimmed = 0xffff'fffd;  // of kReport
inline constexpr std::uint32_t kWanted = 0xffff'fffc;   // with kRemember: unknown, and another
                                                        // process has asked for it, too
inline constexpr std::uint32_t kLastSegment = 0xffff'ff00;

constexpr bool is_segment(std::uint32_t segment) noexcept {
    return segment != kUnknown && segment <= kLastSegment;
}

// Which seed a client is of, by a number that nobody can guess; zeros: of none.
inline constexpr std::size_t kSeedToken = 16;

// In version 2 it ends before `oldest`, in version 3 before `token`; in later ones it may be
// longer.
struct HelloRequest {
    Header header;               // of the newest version
    std::uint32_t page_size = 0; // bytes
    std::uint32_t named = 0;     // 1: the domain of `key`, 0: that of the container
    std::uint8_t key[16] = {};
    std::uint16_t oldest = kOldestVersion; // that the client speaks
    std::uint16_t newest = kVersion;
    std::uint32_t reserved = 0;
    std::uint8_t token[kSeedToken] = {};
};
inline constexpr std::size_t kHelloRequestV2 = offsetof(HelloRequest, oldest);
inline constexpr std::size_t kHelloRequestV3 = offsetof(HelloRequest, token);

// In version 2 it ends before `version`. EPROTONOSUPPORT: no version in common.
struct HelloReply {
    ReplyHeader reply;
    std::uint64_t seed = 0;    // of the hashes in this domain
    std::uint16_t version = 0; // of all that follows on this connection
    std::uint16_t reserved[3] = {};
};
inline constexpr std::size_t kHelloReplyV2 = offsetof(HelloReply, version);

enum LookupFlag : std::uint16_t {
    // Reserve what is unknown. If another client has reserved any of it, the reply
    // waits until that one has published or given up, or as long as the client likes
    // to wait. A reservation lasts a second or so: see upmd(8).
    kReserve = 1U << 0,
    // Send the descriptor of the first segment among the places along.
    kAttach = 1U << 1,
    // Of equal hashes in a row, each gets another place (since version 3); what there is no
    // further place for is unknown.
    kCandidates = 1U << 2,
    // Remember that this process has asked for what is unknown, until the connection ends (since
    // version 5). What there is no room to remember comes as kWanted.
    kRemember = 1U << 3,
};

struct LookupRequest {
    Header header;
    std::uint16_t flags = 0;
    std::uint16_t patience_ms = 0; // with kReserve; 0 (and version 2): kDefaultPatienceMs
    std::uint32_t count = 0;
    // followed by `count` hashes of 8 bytes
};

inline constexpr std::uint16_t kDefaultPatienceMs = 20;

struct LookupReply {
    ReplyHeader reply;
    std::uint32_t count = 0;
    std::uint32_t pages = 0; // of the segment whose descriptor comes along, or 0
    // followed by `count` places
};

struct GetRequest {
    Header header;
    std::uint32_t segment = 0;
    std::uint32_t reserved = 0;
};

struct GetReply { // with the descriptor
    ReplyHeader reply;
    std::uint32_t segment = 0;
    std::uint32_t pages = 0;
};

struct PublishRequest { // with the descriptor; ends the client's reservation
    Header header;
    std::uint32_t count = 0; // pages of the segment
    std::uint32_t reserved = 0;
    // followed by `count` hashes of 8 bytes
};

struct PublishReply {
    ReplyHeader reply;
    std::uint32_t segment = 0;
    std::uint32_t reserved = 0;
};

enum MakeFlag : std::uint32_t {
    // The client maps page 0 where a huge page could begin.
    kAligned = 1U << 0,
};

// With the descriptor of a regular file, open for reading. The reply waits until the
// segment is there; requests for the same that come meanwhile get the same one.
struct MakeRequest {
    Header header;
    std::uint64_t offset = 0;   // bytes, where page 0 begins
    std::uint64_t likeness = 0; // equal in requests that expect the same content
    std::uint32_t pages = 0;
    std::uint32_t flags = 0;
};

struct MakeReply { // with the descriptor
    ReplyHeader reply;
    std::uint32_t segment = 0;
    std::uint32_t pages = 0;
};

enum LateFlag : std::uint32_t {
    // Another process is known to want it, too.
    kOthersWant = 1U << 0,
};

// With the descriptor of a regular file, open for reading. Without kOthersWant the broker
// remembers that this process wants it, and makes it for the next one that does. What it makes
// it keeps until the process ends for which it did.
struct LateRequest {
    Header header;
    std::uint64_t offset = 0;   // bytes, where page 0 begins
    std::uint64_t likeness = 0; // as of MakeRequest, for all of it
    std::uint64_t pages = 0;    // at most kMaxLatePages
    std::uint32_t skew = 0;     // pages from where a huge page could begin to page 0
    std::uint32_t flags = 0;
};
inline constexpr std::uint64_t kMaxLatePages = std::uint64_t{1} << 30U;

// What is to be done with seeds. A seed keeps what its clients get: those that have its
// token, of the user and the domain of the one that began it.
enum class SeedAct : std::uint32_t {
    kBegin = 1, // a new one, of which this connection is a client
    kEnd,       // it keeps what it has, and nothing more. So it is with the end of the process
                // that began it, too.
    kDrop,      // it keeps nothing; number 0: all of this user in this domain
    kList,      // those that this client may see
};
inline constexpr std::size_t kSeedLabel = 64;
inline constexpr std::uint32_t kMaxSeedsListed = 256;

struct SeedRequest {
    Header header;
    std::uint32_t act = 0;
    std::uint32_t expire_s = 0;  // kBegin: after its last use; 0: never
    std::uint64_t number = 0;    // kEnd, kDrop: of which one
    std::uint64_t budget = 0;    // kBegin: pages; 0: as many as its user may have
    char label[kSeedLabel] = {}; // kBegin: for people
};

struct SeedReply {
    ReplyHeader reply;
    std::uint64_t number = 0;            // kBegin
    std::uint8_t token[kSeedToken] = {}; // kBegin
    std::uint64_t room = 0;              // pages that the user may still have kept
    std::uint64_t dropped = 0;           // kDrop: pages that are kept no more
    std::uint64_t uptime_s = 0;          // of the broker, with which seeds end
    std::uint32_t count = 0;             // kEnd: 1, kList
    std::uint32_t more = 0;              // that are not told of
    // followed by `count` entries
};

struct SeedEntry {
    std::uint64_t number = 0;
    std::uint32_t uid = 0;
    std::uint32_t open = 0;   // 1: it still takes what its clients get
    std::uint64_t pages = 0;  // that it keeps
    std::uint64_t budget = 0; // pages
    std::uint64_t missed = 0; // pages that there was no room for
    std::uint64_t used = 0;   // of its pages, those of segments that clients use
    std::uint32_t segments = 0;
    std::uint32_t expire_s = 0;
    char label[kSeedLabel] = {}; // empty for other users
    char domain[kSeedLabel] = {};
};

struct ReportRequest {
    Header header;
    std::uint32_t segment = 0;
    std::uint32_t reserved = 0;
    std::int64_t pages = 0; // newly mapped; negative: no longer mapped
};

struct StatsReply {
    ReplyHeader reply;
    std::uint64_t pages_shared = 0;  // in segments that clients use
    std::uint64_t pages_sharing = 0; // further places that map one
    std::uint64_t pages_unused = 0;  // in segments that wait for their end
    std::uint64_t max_pages = 0;     // the user's quota
    std::uint64_t metadata_bytes = 0;
};

// upmd writes a byte to this descriptor when it is started on demand: kListens, or
// kOther if there is a broker for that socket already. It says nothing if it fails.
inline constexpr int kReadyFd = 3;
inline constexpr char kListens = 'L';
inline constexpr char kOther = 'O';

inline constexpr std::size_t kMaxText = 60'000; // of kMetrics
inline constexpr std::size_t kMaxPacket = 64UL * 1024;

static_assert(sizeof(LookupRequest) + kMaxPages * sizeof(std::uint64_t) <= kMaxPacket);
static_assert(sizeof(LookupReply) + kMaxPages * sizeof(Place) <= kMaxPacket);
static_assert(sizeof(ReplyHeader) + kMaxText <= kMaxPacket);
static_assert(sizeof(SeedReply) + kMaxSeedsListed * sizeof(SeedEntry) <= kMaxPacket);
static_assert(sizeof(SeedRequest) == 104 && sizeof(SeedReply) == 80 && sizeof(SeedEntry) == 184);
static_assert(sizeof(HelloRequest) == 64 && sizeof(HelloReply) == 40 && sizeof(ReplyHeader) == 24);
static_assert(kHelloRequestV2 == 40 && kHelloRequestV3 == 48 && kHelloReplyV2 == 32);
static_assert(sizeof(LookupRequest) == 24);
static_assert(sizeof(MakeRequest) == 40 && sizeof(MakeReply) == 32 && sizeof(LateRequest) == 48);
static_assert(sizeof(ReportRequest) == 32 && sizeof(StatsReply) == 64 && sizeof(Place) == 8);

// Takes the fixed part of a packet out of `bytes`; false if it is too short.
template <class T>
[[nodiscard]] bool take(std::span<const std::byte> &bytes, T &into) noexcept {
    static_assert(std::is_trivially_copyable_v<T>);
    if (bytes.size() < sizeof(T))
        return false;
    std::memcpy(&into, bytes.data(), sizeof(T));
    bytes = bytes.subspan(sizeof(T));
    return true;
}

// Takes the whole rest of a packet as `count` elements; false if it is not that.
template <class T>
[[nodiscard]] bool take_all(std::span<const std::byte> &bytes, T *into,
                            std::uint32_t count) noexcept {
    static_assert(std::is_trivially_copyable_v<T>);
    if (count > kMaxPages || bytes.size() != count * sizeof(T))
        return false;
    std::memcpy(into, bytes.data(), bytes.size());
    bytes = {};
    return true;
}

} // namespace upm::store

#endif // UPM_STORE_WIRE_HPP
