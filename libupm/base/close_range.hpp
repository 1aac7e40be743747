// SPDX-License-Identifier: MIT
//
// close_range(2), which glibc has from 2.34 on.
#ifndef UPM_BASE_CLOSE_RANGE_HPP
#define UPM_BASE_CLOSE_RANGE_HPP

#include <sys/syscall.h>
#include <unistd.h>

namespace upm {

// 0, or -1 with errno.
inline int close_descriptors(unsigned first, unsigned last, unsigned flags) noexcept {
    return static_cast<int>(::syscall(SYS_close_range, first, last, flags));
}

} // namespace upm

#endif // UPM_BASE_CLOSE_RANGE_HPP
