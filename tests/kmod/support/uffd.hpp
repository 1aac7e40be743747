// SPDX-License-Identifier: MIT
//
// A userfaultfd: memory whose faults somebody else handles.
#ifndef UPM_TESTS_KMOD_SUPPORT_UFFD_HPP
#define UPM_TESTS_KMOD_SUPPORT_UFFD_HPP

#include "tests/support/file.hpp"

#include <cerrno>
#include <cstddef>
#include <cstdint>

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace upm::test {

class Uffd {
  public:
    // Empty if the kernel does not allow it.
    explicit Uffd(std::uint64_t features)
        : fd_(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK))) {
        uffdio_api api{.api = UFFD_API, .features = features, .ioctls = 0};
        if (fd_ && ::ioctl(fd_.get(), UFFDIO_API, &api) != 0)
            fd_.reset();
    }
    [[nodiscard]] explicit operator bool() const { return static_cast<bool>(fd_); }
    [[nodiscard]] int get() const { return fd_.get(); }

    // Returns 0 or errno.
    [[nodiscard]] int watch(const std::byte *base, std::size_t len, std::uint64_t mode) const {
        uffdio_register call{};
        call.range = {.start = reinterpret_cast<std::uintptr_t>(base), .len = len};
        call.mode = mode;
        return ::ioctl(fd_.get(), UFFDIO_REGISTER, &call) == 0 ? 0 : errno;
    }
    void ignore(const std::byte *base, std::size_t len) const {
        uffdio_range range{.start = reinterpret_cast<std::uintptr_t>(base), .len = len};
        must(::ioctl(fd_.get(), UFFDIO_UNREGISTER, &range), "UFFDIO_UNREGISTER");
    }

  private:
    Fd fd_;
};

} // namespace upm::test

#endif // UPM_TESTS_KMOD_SUPPORT_UFFD_HPP
