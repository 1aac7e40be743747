// SPDX-License-Identifier: MIT
#include "libupm/backends/none.hpp"

#include <cerrno>

namespace upm {

int NoneBackend::open(Reason &reason) noexcept {
    reason.set("merges nothing");
    return 0;
}

int NoneBackend::run(const Call & /*call*/, upm_counts & /*counts*/) noexcept {
    return -EOPNOTSUPP;
}

int NoneBackend::open_domain(const std::uint8_t (&/*key*/)[16]) noexcept {
    return -EOPNOTSUPP;
}

int NoneBackend::stats(int /*domain_fd*/, struct upm_stats & /*stats*/) noexcept {
    return -EOPNOTSUPP;
}

} // namespace upm
