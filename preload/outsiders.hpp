// SPDX-License-Identifier: MIT
//
// Who else may write to this process's memory, without its page tables: a disk's controller
// for asynchronous or direct I/O, a graphics or network card, a ring of io_uring, a file system
// that hands the pages of the reader on (copying.hpp). They have pinned the pages, and go on
// writing into the old ones when others are mapped in their place. The kernel module leaves pinned
// pages out; a backend that maps cannot see them.
//
// So it works only while every descriptor and every mapping is of a kind known to be
// harmless: what is unknown is taken for harmful.
#ifndef UPM_PRELOAD_OUTSIDERS_HPP
#define UPM_PRELOAD_OUTSIDERS_HPP

#include <string_view>
#include <sys/types.h>

namespace upm::hook {

// Returns true if a descriptor or a mapping lets an outsider write, or if that cannot be
// found out. What is opened later counts from the next call on.
bool outsiders_may_write() noexcept;

// The same for the time in which memory is frozen: asks no file system, which might answer when
// it likes. So it knows files by their names only, and says yes for a device without a known one.
bool outsiders_came() noexcept;

// Returns true if memory of this process is pinned for long, or if that is unknown: buffers of a
// ring of io_uring, which may have no descriptor (IORING_SETUP_REGISTERED_FD_ONLY), of a network
// card.
bool something_pinned() noexcept;

// For tests. Returns true if a descriptor is of a harmless kind.
bool harmless_descriptor(int fd) noexcept;
// The same as far as its name tells and its flags.
bool harmless_name(int fd) noexcept;
// The same of a mapping, by its name in /proc/PID/maps.
bool harmless_mapping(std::string_view name) noexcept;
// The same of a file without a type (fstat) by what its link in /proc/PID/fd says.
bool harmless_anonymous(std::string_view link) noexcept;

} // namespace upm::hook

#endif // UPM_PRELOAD_OUTSIDERS_HPP
