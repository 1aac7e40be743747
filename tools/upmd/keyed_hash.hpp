// SPDX-License-Identifier: MIT
//
// The hash of tables whose keys strangers choose: without the key nobody can choose
// numbers that fall into one bucket. One round and three at the end, as other tables of
// the kind use it; XXH3 with a secret seed would be faster, but nobody claims that its
// seed cannot be worked around.
#ifndef UPM_UPMD_KEYED_HASH_HPP
#define UPM_UPMD_KEYED_HASH_HPP

#include "libupm/base/siphash.hpp"

#include <cstddef>
#include <cstdint>

namespace upm::upmd {

using upm::HashKey;

// For std::unordered_map.
struct KeyedHash {
    HashKey key;
    std::size_t operator()(std::uint64_t number) const noexcept {
        return siphash<1, 3>(key, number);
    }
};

} // namespace upm::upmd

#endif // UPM_UPMD_KEYED_HASH_HPP
