// SPDX-License-Identifier: MIT
//
// Reads what a broker answers, and trusts none of it. Each function takes a whole
// packet and the number of the request, and returns 0, the broker's own error, or
// -EPROTO for what is no answer to that request; only with 0 is there a result.
#ifndef UPM_STORE_REPLY_HPP
#define UPM_STORE_REPLY_HPP

#include "libupm/store/wire.hpp"

#include <cstddef>
#include <cstdint>
#include <span>

namespace upm::store {

using Packet = std::span<const std::byte>;

// `version`: the one that was greeted in; then the one that both sides speak.
int read_hello(Packet packet, std::uint32_t number, std::uint64_t &seed,
               std::uint16_t &version) noexcept;
// `places` has the size that the request had. `pages` is the size of the segment that
// comes along, or 0.
int read_lookup(Packet packet, std::uint32_t number, std::span<Place> places,
                std::uint32_t &pages) noexcept;
int read_get(Packet packet, std::uint32_t number, std::uint32_t segment,
             std::uint32_t &pages) noexcept;
int read_publish(Packet packet, std::uint32_t number, std::uint32_t &segment) noexcept;
int read_make(Packet packet, std::uint32_t number, std::uint32_t &segment,
              std::uint32_t &pages) noexcept;
int read_release(Packet packet, std::uint32_t number) noexcept;
int read_stats(Packet packet, std::uint32_t number, StatsReply &stats) noexcept;
// The entries that `list` has room for are read.
int read_seed(Packet packet, std::uint32_t number, SeedReply &answer,
              std::span<SeedEntry> list) noexcept;
// `text` is a part of the packet, without a terminating zero.
int read_metrics(Packet packet, std::uint32_t number, Packet &text) noexcept;

} // namespace upm::store

#endif // UPM_STORE_REPLY_HPP
