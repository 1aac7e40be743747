// SPDX-License-Identifier: MIT
//
// Descriptors of domains.
#ifndef UPM_STORE_DOMAIN_FILE_HPP
#define UPM_STORE_DOMAIN_FILE_HPP

#include "libupm/store/client.hpp"

#include <cstdint>

namespace upm::store {

// The domain of such a descriptor. 0, or -EBADF for another file.
int read_domain(int fd, DomainKey &domain) noexcept;

// A new descriptor of the domain of that key, or -errno.
int make_domain(const std::uint8_t (&key)[16]) noexcept;

} // namespace upm::store

#endif // UPM_STORE_DOMAIN_FILE_HPP
