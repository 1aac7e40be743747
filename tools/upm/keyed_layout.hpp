// SPDX-License-Identifier: MIT
//
// The keyed layout of upm run and of upm-layout: random addresses that are the same for all
// who hold a key. The hook (preload/keyed.hpp) is the other half.
#ifndef UPM_TOOLS_UPM_KEYED_LAYOUT_HPP
#define UPM_TOOLS_UPM_KEYED_LAYOUT_HPP

#include "libupm/base/siphash.hpp"
#include "tools/upm/read/program.hpp"

#include <cstdint>
#include <string>

namespace upm::tool::cli {

// Numbers of places, all equally likely: powers of two.
inline constexpr unsigned kMapBits = 32;
inline constexpr unsigned kHeapBits = 27;
inline constexpr std::uint64_t kLayoutPage = 4096;
// The stack keeps that much room, and the heap leaves that much below to those who ask for
// low addresses: the JVM the first 32 GiB. Go asks for 0xc000000000, which is above all
// starts of a heap that follows a program at a fixed address.
inline constexpr std::uint64_t kLeastGap = 16ULL << 30U;
inline constexpr std::uint64_t kLeastHeap = 64ULL << 30U;

struct Places {
    std::uint64_t gap = 0;       // from the top of addresses to the first mapping, bytes
    std::uint64_t heap = 0;      // from the end of the program to the heap, bytes
    std::uint64_t hash_seed = 0; // Python's: 1 to 2^32 - 1
    std::uint64_t free_mark = 0; // what glibc marks freed memory with: not 0
};

// SipHash-2-4 of the key and of a name for each place: who knows one of them learns neither
// the key nor another one.
Places places_of(const HashKey &key) noexcept;

// The key of UPM_DOMAIN; else the user's own, in a file of mode 0600 that is made when it
// is first asked for. Throws Failure.
// The file lies below XDG_STATE_HOME, else below the user's folder in /run.
HashKey layout_key();

// One line for why a program gets the addresses that it always gets; empty: it can have
// others, which the hook has to be there for.
std::string why_stock_layout(const Program &program);

// Of this process. Throws Failure.
unsigned long own_personality();

// Makes the layout that of the next execve(2), and tells the hook, which gives the program
// that personality. Throws Failure, and then nothing has changed.
void choose_keyed_layout(const Places &places, unsigned long personality);
// No address is random, also in the program's children. Throws Failure.
void choose_fixed_layout();

} // namespace upm::tool::cli

#endif // UPM_TOOLS_UPM_KEYED_LAYOUT_HPP
