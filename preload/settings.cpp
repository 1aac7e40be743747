// SPDX-License-Identifier: MIT
#include "preload/settings.hpp"

#include "preload/page.hpp"

namespace upm::hook {

static_assert(env::min_bytes.least == kPageSize);

Settings read_settings() noexcept {
    // This copy of the code was loaded first, and speaks for all in the process.
    env::report_all();
    Settings settings;
    settings.min_bytes = env::get(env::min_bytes);
    settings.trigger = env::get(env::trigger);
    settings.idle_ns = env::get(env::idle_ms) * 1'000'000U;
    settings.everything = env::get(env::scope) == env::Scope::kAll;
    settings.loads = env::get(env::scope) == env::Scope::kLoads;
    std::uint8_t token[16];
    settings.of_seed = env::get(env::seed, token) == env::KeyState::kValid;
    settings.verbose = env::get(env::verbose);
    settings.profile = env::get(env::profile);
    return settings;
}

} // namespace upm::hook
