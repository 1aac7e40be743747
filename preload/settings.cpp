// SPDX-License-Identifier: MIT
#include "preload/settings.hpp"

#include "libupm/base/env.hpp"
#include "preload/page.hpp"

#include <algorithm>
#include <charconv>

namespace upm::hook {

namespace {

constexpr std::uint64_t kMaxIdleMs = 3'600'000;

bool parse_number(std::string_view text, std::uint64_t &value) noexcept {
    const char *const end = text.data() + text.size();
    const auto [rest, error] = std::from_chars(text.data(), end, value);
    return error == std::errc() && rest == end && !text.empty();
}

} // namespace

bool parse_bytes(std::string_view text, std::size_t &bytes) noexcept {
    unsigned shift = 0;
    if (!text.empty()) {
        switch (text.back()) {
        case 'K':
        case 'k':
            shift = 10;
            break;
        case 'M':
        case 'm':
            shift = 20;
            break;
        case 'G':
        case 'g':
            shift = 30;
            break;
        default:
            break;
        }
    }
    if (shift != 0)
        text.remove_suffix(1);
    std::uint64_t value = 0;
    if (!parse_number(text, value) || value > (SIZE_MAX >> shift))
        return false;
    bytes = value << shift;
    return true;
}

Settings read_settings() noexcept {
    Settings settings;
    std::size_t bytes = 0;
    if (parse_bytes(env::text(env::min_bytes), bytes))
        settings.min_bytes = std::max(bytes, kPageSize);
    const std::string_view trigger = env::text(env::trigger);
    if (trigger == "manual")
        settings.trigger = Trigger::kManual;
    else if (trigger == "signal")
        settings.trigger = Trigger::kSignal;
    std::uint64_t idle_ms = 0;
    if (parse_number(env::text(env::idle_ms), idle_ms) && idle_ms > 0)
        settings.idle_ns = std::min(idle_ms, kMaxIdleMs) * 1'000'000U;
    settings.everything = env::text(env::scope) == "all";
    settings.verbose = env::flag(env::verbose);
    settings.profile = env::flag(env::profile);
    return settings;
}

} // namespace upm::hook
