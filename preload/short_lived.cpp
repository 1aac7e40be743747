// SPDX-License-Identifier: MIT
#include "preload/short_lived.hpp"

#include "libupm/base/wander.hpp"

#include <algorithm>

namespace upm::hook {

bool ShortLived::loads(Life &life, std::size_t bytes) noexcept {
    const std::uint64_t before = life.turn_.load();
    life.bytes_ += bytes;
    if (before != 0 && slot(before).load() == before)
        return false; // one more part of what was just being filled
    const std::uint64_t turn = ++turns_;
    life.turn_ = turn;
    freed_ = false;
    if (slot(turn).exchange(turn) == 0)
        return false;
    // The one before the last is there still.
    const bool stream = is_stream();
    if (stream && ++stayed_ < needed_.load())
        return false;
    if (stream)
        needed_ = std::min(needed_.load() * 2, kMostStaying);
    end();
    return stream;
}

void ShortLived::shares() noexcept {
    passing_ = 0;
    passed_ = 0;
    needed_ = 1;
    pause_ = kFirstPause;
}

void ShortLived::frees(Life &life) noexcept {
    std::uint64_t turn = life.turn_.load();
    if (turn == 0)
        return;
    const std::size_t bytes = life.bytes_.load();
    const bool recent = slot(turn).compare_exchange_strong(turn, 0);
    life.begin();
    if (freed_.exchange(true) || !recent || never_)
        return;
    largest_ = std::max(largest_.load(), bytes);
    if (is_stream())
        return;
    passed_ += bytes;
    if (++passing_ < kPassing || passed_.load() < kPassingBytes)
        return;
    stayed_ = 0;
    ahead_ = next_pause();
    stream_ = true;
}

bool ShortLived::asks(std::size_t bytes) noexcept {
    const auto size = static_cast<std::int64_t>(bytes);
    if (ahead_.fetch_sub(size) > size)
        return false;
    pause_ = std::min(pause_.load() * 2, kMostPause);
    ahead_ = next_pause();
    return true;
}

std::int64_t ShortLived::next_pause() noexcept {
    return static_cast<std::int64_t>(wandering_pause(pause_.load(), questions_++));
}

void ShortLived::end() noexcept {
    passing_ = 0;
    passed_ = 0;
    largest_ = 0;
    stream_ = false;
}

} // namespace upm::hook
