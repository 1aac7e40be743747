// SPDX-License-Identifier: MIT
//
// A thread of the library's may have a table of descriptors of its own: what it opens then takes
// no number of the program's, counts for no limit of it, cannot be closed by it, goes to none of
// its children, and gives up none of its locks when it is closed.
#ifndef UPM_BASE_DESCRIPTOR_TABLE_HPP
#define UPM_BASE_DESCRIPTOR_TABLE_HPP

namespace upm {

// Which table the calling thread has. 0: the program's; 1: its own.
unsigned descriptor_table() noexcept;

// Gives the calling thread an empty table, for as long as it lives. The numbers of the standard
// streams mean nothing there, and are taken. False: the kernel is too old for that (before
// Linux 5.9) or does not let us, or the program has open what must not be closed twice; then
// nothing has changed.
bool take_own_table() noexcept;

} // namespace upm

#endif // UPM_BASE_DESCRIPTOR_TABLE_HPP
