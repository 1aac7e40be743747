// SPDX-License-Identifier: MIT
#include "libupm/engine/backend.hpp"

#include "libupm/base/descriptor_table.hpp"
#include "libupm/base/plain_read.hpp"

namespace upm {

std::int64_t Backend::load(const LoadCall &call, upm_load_counts &counts) noexcept {
    const std::int64_t got = plain_read(call.fd, call.offset, call.into, call.len);
    if (got > 0)
        counts.copied = static_cast<std::uint64_t>(got);
    return got;
}

bool Backend::take_own_table() noexcept {
    return upm::take_own_table();
}

} // namespace upm
