// SPDX-License-Identifier: MIT
//
// Frees a block when three others were given here: what is freed before more than one other was
// loaded into counts as a part of a stream (preload/short_lived.hpp), and then loads are plain.
#ifndef UPM_TESTS_PRELOAD_FREE_LATER_HPP
#define UPM_TESTS_PRELOAD_FREE_LATER_HPP

#include <array>
#include <cstddef>
#include <cstdlib>
#include <mutex>
#include <utility>

inline void free_later(void *block) {
    static std::mutex mutex;
    static std::array<void *, 3> kept{};
    static std::size_t next = 0;
    const std::lock_guard lock(mutex);
    std::free(std::exchange(kept[next], block));
    next = (next + 1) % kept.size();
}

#endif // UPM_TESTS_PRELOAD_FREE_LATER_HPP
