// SPDX-License-Identifier: MIT
//
// A file descriptor with an owner.
#ifndef UPM_TOOLS_COMMON_DESCRIPTOR_HPP
#define UPM_TOOLS_COMMON_DESCRIPTOR_HPP

#include <unistd.h>
#include <utility>

namespace upm::tool {

// A file descriptor that is closed with its owner.
class Descriptor {
  public:
    Descriptor() noexcept = default;
    explicit Descriptor(int fd) noexcept : fd_(fd) {}
    Descriptor(Descriptor &&other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Descriptor &operator=(Descriptor &&other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    Descriptor(const Descriptor &) = delete;
    Descriptor &operator=(const Descriptor &) = delete;
    ~Descriptor() {
        if (fd_ >= 0)
            (void)::close(fd_);
    }
    [[nodiscard]] int get() const noexcept { return fd_; }
    // It is the caller's now.
    [[nodiscard]] int release() noexcept { return std::exchange(fd_, -1); }
    [[nodiscard]] explicit operator bool() const noexcept { return fd_ >= 0; }

  private:
    int fd_ = -1;
};

} // namespace upm::tool

#endif // UPM_TOOLS_COMMON_DESCRIPTOR_HPP
