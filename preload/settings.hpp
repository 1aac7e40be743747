// SPDX-License-Identifier: MIT
//
// What the environment asks of the hook.
#ifndef UPM_PRELOAD_SETTINGS_HPP
#define UPM_PRELOAD_SETTINGS_HPP

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace upm::hook {

enum class Trigger : std::uint8_t { kIdle, kManual, kSignal };

struct Settings {
    std::size_t min_bytes = 64UL * 1024; // UPM_MIN_BYTES; a page at least
    Trigger trigger = Trigger::kIdle;    // UPM_TRIGGER
    std::uint64_t idle_ns = 100'000'000; // UPM_IDLE_MS
    bool everything = false;             // UPM_SCOPE=all
    bool verbose = false;                // UPM_VERBOSE
    bool profile = false;                // UPM_PROFILE
};

// From the environment. What cannot be understood is left at its default: a hook
// that refuses to work must not keep the program from working. (`upm run` checks
// what it passes on.)
Settings read_settings() noexcept;

// "4096", "64K", "2M", "1G"; false for anything else.
bool parse_bytes(std::string_view text, std::size_t &bytes) noexcept;

} // namespace upm::hook

#endif // UPM_PRELOAD_SETTINGS_HPP
