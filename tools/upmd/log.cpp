// SPDX-License-Identifier: MIT
#include "tools/upmd/log.hpp"

#include <cerrno>
#include <fmt/format.h>
#include <poll.h>
#include <unistd.h>

namespace upm::upmd {

namespace {

constexpr std::uint64_t kAgainMs = 600'000;
constexpr std::size_t kMostTold = 256; // users with their reasons

} // namespace

void Log::say(std::string_view text) const {
    pollfd reader{.fd = descriptor_, .events = POLLOUT, .revents = 0};
    if (descriptor_ < 0 || ::poll(&reader, 1, 0) != 1 || reader.revents != POLLOUT)
        return;
    const std::string line = fmt::format("upmd: {}\n", text);
    const ssize_t unused = ::write(descriptor_, line.data(), line.size());
    (void)unused;
}

void Log::refused(uid_t uid, std::string_view why, std::uint64_t now) {
    const auto known = told_.find({uid, why});
    if (known != told_.end() && now < known->second.at + kAgainMs) {
        ++known->second.since;
        return;
    }
    const std::uint64_t since = known != told_.end() ? known->second.since : 0;
    if (known == told_.end() && told_.size() >= kMostTold)
        std::erase_if(told_, [&](const auto &entry) { return now >= entry.second.at + kAgainMs; });
    if (known == told_.end() && told_.size() >= kMostTold)
        return;
    told_[{uid, why}] = {.at = now, .since = 0};
    say(since == 0 ? fmt::format("refuses what user {} asks for: {}", uid, why)
                   : fmt::format("refuses what user {} asks for: {}; {} times more since this was "
                                 "told",
                                 uid, why, since));
}

} // namespace upm::upmd
