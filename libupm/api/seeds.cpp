// SPDX-License-Identifier: MIT
//
// The seeds of upm.hpp.
#include <upm/upm.hpp>

#include "libupm/api/library.hpp"

#include <cerrno>
#include <cstddef>
#include <cstdint>

namespace upm {

namespace {

void write_hex(const std::uint8_t (&token)[16], char (&text)[33]) noexcept {
    constexpr char kDigits[] = "0123456789abcdef";
    constexpr unsigned kHalf = 4;
    for (std::size_t i = 0; i < sizeof(token); ++i) {
        text[2 * i] = kDigits[token[i] >> kHalf];
        text[2 * i + 1] = kDigits[token[i] & 0xfU];
    }
    text[2 * sizeof(token)] = '\0';
}

} // namespace

Result<Seed> begin_seed(const SeedOptions &options) noexcept {
    const EntryGuard guard;
    SeedAnswer answer;
    const int ret = engine().seed({.act = SeedCall::Act::kBegin,
                                   .budget = options.budget,
                                   .expire_s = options.expire_s,
                                   .label = options.label},
                                  answer, {});
    Seed seed;
    if (ret == 0) {
        seed.number = answer.number;
        seed.room = answer.room;
        write_hex(answer.token, seed.token);
    }
    return {seed, -ret};
}

Result<SeedState> end_seed(std::uint64_t number) noexcept {
    const EntryGuard guard;
    SeedAnswer answer;
    SeedState state{};
    int ret = engine().seed({.act = SeedCall::Act::kEnd, .number = number}, answer, {&state, 1});
    if (ret == 0 && answer.count != 1)
        ret = -EPROTO;
    return {state, -ret};
}

Result<SeedsDropped> drop_seed(std::uint64_t number) noexcept {
    const EntryGuard guard;
    SeedAnswer answer;
    const int ret = engine().seed({.act = SeedCall::Act::kDrop, .number = number}, answer, {});
    return {{.bytes = answer.dropped, .seeds = answer.number}, -ret};
}

Result<SeedList> list_seeds(std::span<SeedState> list) noexcept {
    const EntryGuard guard;
    SeedAnswer answer;
    const int ret = engine().seed({.act = SeedCall::Act::kList}, answer, list);
    return {{.count = answer.count,
             .more = answer.more,
             .room = answer.room,
             .uptime_s = answer.uptime_s},
            -ret};
}

} // namespace upm
