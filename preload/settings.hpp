// SPDX-License-Identifier: MIT
//
// What the environment asks of the hook.
#ifndef UPM_PRELOAD_SETTINGS_HPP
#define UPM_PRELOAD_SETTINGS_HPP

#include "libupm/base/env.hpp"

#include <cstddef>
#include <cstdint>

namespace upm::hook {

using env::Trigger;

struct Settings {
    std::size_t min_bytes = 64UL * 1024; // UPM_MIN_BYTES; a page at least
    Trigger trigger = Trigger::kIdle;    // UPM_TRIGGER
    std::uint64_t idle_ns = 100'000'000; // UPM_IDLE_MS
    bool everything = false;             // UPM_SCOPE=all
    bool loads = true;                   // UPM_SCOPE=loads
    bool of_seed = false;                // UPM_SEED
    bool verbose = false;                // UPM_VERBOSE
    bool profile = false;                // UPM_PROFILE
};

// From the environment. What cannot be understood is reported, and the default is used:
// a hook that refuses to work must not keep the program from working.
Settings read_settings() noexcept;

} // namespace upm::hook

#endif // UPM_PRELOAD_SETTINGS_HPP
