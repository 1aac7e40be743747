// SPDX-License-Identifier: MIT
//
// Which file systems copy what is read from them through the page tables, as all do that keep
// pages of their files. Others hand the pages of the reader on: to the program behind FUSE (where
// that asks for direct I/O), to a server, to the host of a virtual machine. Those write into them
// while the reader sleeps, whatever the flags of the descriptor say.
//
// None is asked: a program or a server might not answer. Where a file is mounted, and as what, is
// known to the kernel.
#ifndef UPM_PRELOAD_COPYING_HPP
#define UPM_PRELOAD_COPYING_HPP

#include <string_view>

namespace upm::hook {

// Mounts that are known to be of such a file system. A number of one may come to mean another
// mount once it is gone, so what is known is known for a while only.
class CopyingMounts {
  public:
    void forget() noexcept { count_ = 0; }
    [[nodiscard]] bool knows(int mount) const noexcept;
    // Looks it up, unless it is known, with the name of a file that is there.
    bool find(int mount, const char *file) noexcept;

  private:
    static constexpr int kMost = 32;
    int mounts_[kMost] = {};
    int count_ = 0;
};

// Returns true if an open file is of such a file system, or mounted nowhere, so that the kernel
// itself answers what is asked about it. The program behind FUSE would be asked by fstat(2) and
// fstatfs(2), and may not answer. By any thread; what is found out about a mount is remembered.
bool kernel_answers(int fd) noexcept;

// Returns true for the name of such a file system, as /proc/PID/mountinfo has it.
bool copies(std::string_view file_system) noexcept;

} // namespace upm::hook

#endif // UPM_PRELOAD_COPYING_HPP
