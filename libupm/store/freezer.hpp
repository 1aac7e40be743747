// SPDX-License-Identifier: MIT
//
// Keeps memory from changing while it is compared and replaced.
#ifndef UPM_STORE_FREEZER_HPP
#define UPM_STORE_FREEZER_HPP

#include <cstddef>
#include <cstdint>

namespace upm::store {

enum class FreezeMode : std::uint8_t {
    // userfaultfd: writers wait in the kernel, system calls that write as well.
    kKernel,
    // The same without the privilege: a system call that writes into frozen
    // memory fails with EFAULT.
    kUser,
    // mprotect: writers get SIGSEGV, system calls EFAULT.
    kProtect,
};

const char *freeze_mode_name(FreezeMode mode) noexcept;

// The best that works in this process. Kernel mode needs CAP_SYS_PTRACE, or
// vm.unprivileged_userfaultfd=1, or the right to open /dev/userfaultfd.
FreezeMode find_freeze_mode() noexcept;

// One mapping, or a part of one, for as long as it is worked on.
class Freezer {
  public:
    explicit Freezer(FreezeMode mode) noexcept : mode_(mode) {}
    Freezer(const Freezer &) = delete;
    Freezer &operator=(const Freezer &) = delete;
    ~Freezer();

    // Pre: one mapping with this protection. 0 or -errno: EPERM, EBUSY (another
    // userfaultfd), EINVAL (a mapping that cannot be frozen), EMFILE, ENOMEM.
    int begin(std::uint64_t start, std::uint64_t size, int protection) noexcept;
    // Pre: begin() has returned 0. Nothing stays frozen.
    void end() noexcept;
    // The same when the memory may be gone, or somebody else's: it is not touched.
    void drop() noexcept;

    // From now on the part does not change, but for pages that were not there:
    // see exact().
    int freeze(std::uint64_t start, std::uint64_t size) noexcept;
    // Lets the writers of a part go on: of one that was frozen and is as it was,
    // or of one over which something else was mapped.
    void thaw(std::uint64_t start, std::uint64_t size) const noexcept;
    void wake(std::uint64_t start, std::uint64_t size) const noexcept;

    // The protection that frozen memory has, as /proc/PID/maps shows it.
    [[nodiscard]] int protection() const noexcept;
    // Whether /proc/PID/pagemap tells frozen pages by bit 57.
    [[nodiscard]] bool exact() const noexcept { return mode_ != FreezeMode::kProtect; }
    // Whether pages that were not there are frozen as well (Linux 6.4): then nobody
    // has to look.
    [[nodiscard]] bool complete() const noexcept { return complete_; }

  private:
    FreezeMode mode_;
    int fd_ = -1;
    bool complete_ = false;
    int protection_ = 0;
    std::uint64_t start_ = 0;
    std::uint64_t size_ = 0;
};

} // namespace upm::store

#endif // UPM_STORE_FREEZER_HPP
