// SPDX-License-Identifier: MIT
#include "libupm/store/reply.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace upm::store {

namespace {

constexpr std::int32_t kMaxErrno = 4095; // as in the kernel's include/linux/err.h

// Post: `packet` is what follows the reply's header.
int take_header(Packet &packet, Op op, std::uint32_t number) noexcept {
    const std::size_t size = packet.size();
    ReplyHeader reply{};
    const bool good = take(packet, reply) && reply.header.magic == kMagic &&
                      reply.header.version >= kOldestVersion && reply.header.version <= kVersion &&
                      reply.header.op == static_cast<std::uint16_t>(op) &&
                      reply.header.number == number && reply.header.length == size &&
                      reply.error <= 0 && reply.error >= -kMaxErrno;
    return good ? reply.error : -EPROTO;
}

// A reply of fixed size.
template <class Reply>
int read_whole(Packet packet, Op op, std::uint32_t number, Reply &reply) noexcept {
    Packet body = packet;
    const int ret = take_header(body, op, number);
    if (ret != 0)
        return ret;
    return packet.size() == sizeof(reply) && take(packet, reply) ? 0 : -EPROTO;
}

} // namespace

int read_hello(Packet packet, std::uint32_t number, std::uint64_t &seed,
               std::uint16_t &version) noexcept {
    Packet body = packet;
    const int ret = take_header(body, Op::kHello, number);
    if (ret != 0)
        return ret;
    HelloReply reply{};
    const bool first_kind = version == 2;
    const std::size_t size = first_kind ? kHelloReplyV2 : sizeof(reply);
    if (packet.size() < size || (first_kind && packet.size() != size))
        return -EPROTO;
    std::memcpy(&reply, packet.data(), size);
    if (!first_kind && (reply.version < kOldestVersion || reply.version > version))
        return -EPROTO;
    seed = reply.seed;
    if (!first_kind)
        version = reply.version;
    return 0;
}

int read_lookup(Packet packet, std::uint32_t number, std::span<Place> places,
                std::uint32_t &pages) noexcept {
    const int ret = take_header(packet, Op::kLookup, number);
    if (ret != 0)
        return ret;
    std::uint32_t counts[2] = {}; // count, pages
    if (!take(packet, counts) || counts[0] != places.size() || counts[1] > kMaxPages ||
        !take_all(packet, places.data(), counts[0]))
        return -EPROTO;
    pages = counts[1];
    return 0;
}

int read_get(Packet packet, std::uint32_t number, std::uint32_t segment,
             std::uint32_t &pages) noexcept {
    GetReply reply{};
    const int ret = read_whole(packet, Op::kGet, number, reply);
    if (ret != 0)
        return ret;
    if (reply.segment != segment || reply.pages == 0 || reply.pages > kMaxPages)
        return -EPROTO;
    pages = reply.pages;
    return 0;
}

int read_publish(Packet packet, std::uint32_t number, std::uint32_t &segment) noexcept {
    PublishReply reply{};
    const int ret = read_whole(packet, Op::kPublish, number, reply);
    if (ret != 0)
        return ret;
    if (!is_segment(reply.segment))
        return -EPROTO;
    segment = reply.segment;
    return 0;
}

int read_make(Packet packet, std::uint32_t number, std::uint32_t &segment,
              std::uint32_t &pages) noexcept {
    MakeReply reply{};
    const int ret = read_whole(packet, Op::kMake, number, reply);
    if (ret != 0)
        return ret;
    if (!is_segment(reply.segment) || reply.pages == 0 || reply.pages > kMaxPages)
        return -EPROTO;
    segment = reply.segment;
    pages = reply.pages;
    return 0;
}

int read_release(Packet packet, std::uint32_t number) noexcept {
    ReplyHeader reply{};
    return read_whole(packet, Op::kRelease, number, reply);
}

int read_stats(Packet packet, std::uint32_t number, StatsReply &stats) noexcept {
    return read_whole(packet, Op::kStats, number, stats);
}

int read_seed(Packet packet, std::uint32_t number, SeedReply &answer,
              std::span<SeedEntry> list) noexcept {
    Packet body = packet;
    const int ret = take_header(body, Op::kSeed, number);
    if (ret != 0)
        return ret;
    Packet rest = packet;
    if (!take(rest, answer) || answer.count > kMaxSeedsListed ||
        rest.size() != answer.count * sizeof(SeedEntry))
        return -EPROTO;
    for (std::size_t i = 0; i < std::min<std::size_t>(answer.count, list.size()); ++i) {
        (void)take(rest, list[i]);
        list[i].label[kSeedLabel - 1] = '\0';
        list[i].domain[kSeedLabel - 1] = '\0';
    }
    return 0;
}

int read_metrics(Packet packet, std::uint32_t number, Packet &text) noexcept {
    const int ret = take_header(packet, Op::kMetrics, number);
    if (ret == 0)
        text = packet;
    return ret;
}

} // namespace upm::store
