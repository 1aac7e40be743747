// SPDX-License-Identifier: MIT
//
// What `upm run --layout keyed` tells the hook in the program that it becomes: what to put
// back, and where the heap goes. It travels in one environment variable, which the hook
// takes out before the program's own code runs. It is no interface: both sides come from
// one build.
#ifndef UPM_BASE_LAYOUT_STATE_HPP
#define UPM_BASE_LAYOUT_STATE_HPP

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace upm {

inline constexpr std::string_view kLayoutVariable = "UPM_LAYOUT_STATE";

struct LayoutState {
    std::uint64_t gap = 0;         // soft limit of the stack that made the layout, bytes
    std::uint64_t stack = 0;       // soft limit to put back
    std::uint64_t personality = 0; // to put back
    std::uint64_t heap = 0;        // bytes by which the heap begins later, whole pages
    std::uint64_t hash_seed = 0;   // Python's; 0: leave it alone
    std::uint64_t free_mark = 0;   // what glibc marks freed memory with; 0: leave it alone
};

namespace detail {
inline constexpr std::array kLayoutFields = {&LayoutState::gap,         &LayoutState::stack,
                                             &LayoutState::personality, &LayoutState::heap,
                                             &LayoutState::hash_seed,   &LayoutState::free_mark};
}

inline constexpr std::size_t kLayoutDigits = 16; // of each field
inline constexpr std::size_t kLayoutTextSize = detail::kLayoutFields.size() * kLayoutDigits;
using LayoutText = std::array<char, kLayoutTextSize>;

// The fields one after the other, 16 hex digits each.
constexpr LayoutText layout_text(const LayoutState &state) noexcept {
    LayoutText text{};
    std::size_t at = 0;
    for (const auto field : detail::kLayoutFields)
        for (int shift = 60; shift >= 0; shift -= 4)
            text[at++] = "0123456789abcdef"[(state.*field >> static_cast<unsigned>(shift)) & 0xfU];
    return text;
}

// Returns false for anything that layout_text() does not give.
constexpr bool parse_layout_text(std::string_view text, LayoutState &state) noexcept {
    if (text.size() != kLayoutTextSize)
        return false;
    for (const auto field : detail::kLayoutFields) {
        std::uint64_t value = 0;
        for (const char digit : text.substr(0, kLayoutDigits)) {
            const bool decimal = digit >= '0' && digit <= '9';
            if (!decimal && (digit < 'a' || digit > 'f'))
                return false;
            value = value << 4U | static_cast<unsigned>(decimal ? digit - '0' : digit - 'a' + 10);
        }
        state.*field = value;
        text.remove_prefix(kLayoutDigits);
    }
    return true;
}

} // namespace upm

#endif // UPM_BASE_LAYOUT_STATE_HPP
