// SPDX-License-Identifier: MIT
//
// The backend over /dev/upm of the kernel module. The kernel's own header stays
// inside backend_kmod.cpp.
#ifndef UPM_BACKENDS_KMOD_HPP
#define UPM_BACKENDS_KMOD_HPP

#include "libupm/engine/backend.hpp"

#include <atomic>

namespace upm {

// The system calls that the backend makes, so that tests can play the module.
class DeviceOps {
  public:
    constexpr DeviceOps() noexcept = default;
    DeviceOps(const DeviceOps &) = delete;
    DeviceOps &operator=(const DeviceOps &) = delete;

    // A descriptor with close-on-exec set, or -errno.
    virtual int open() noexcept = 0;
    virtual void close(int fd) noexcept = 0;
    // 0 (or more), or -errno.
    virtual int ioctl(int fd, unsigned long request, void *argument) noexcept = 0;
    // Whether fd is a descriptor of this process at all.
    virtual bool is_open(int fd) noexcept = 0;
    // Makes single pages of huge ones in [addr, addr + len), as far as it can.
    virtual void split(int pid, std::uint64_t addr, std::uint64_t len) noexcept = 0;

  protected:
    ~DeviceOps() = default;
};

// /dev/upm itself.
class KernelDevice final : public DeviceOps {
  public:
    constexpr KernelDevice() noexcept = default;
    int open() noexcept override;
    void close(int fd) noexcept override;
    int ioctl(int fd, unsigned long request, void *argument) noexcept override;
    bool is_open(int fd) noexcept override;
    void split(int pid, std::uint64_t addr, std::uint64_t len) noexcept override;
};

class KmodBackend final : public Backend {
  public:
    constexpr explicit KmodBackend(DeviceOps &device) noexcept : device_(device) {}

    [[nodiscard]] const char *name() const noexcept override { return "kmod"; }
    int open(Reason &reason) noexcept override;
    [[nodiscard]] Capabilities capabilities() const noexcept override { return capabilities_; }
    int run(const Call &call, upm_counts &counts) noexcept override;
    std::int64_t load(const LoadCall &call, upm_load_counts &counts) noexcept override;
    int open_domain(const std::uint8_t (&key)[16]) noexcept override;
    int stats(int domain_fd, struct upm_stats &stats) noexcept override;

  private:
    int advise(const Call &call, upm_counts &counts) noexcept;
    std::int64_t read_and_merge(const LoadCall &call, upm_load_counts &counts) noexcept;
    int handshake(int fd, Reason &reason, Capabilities &found) noexcept;
    int call(unsigned long request, void *argument) noexcept;
    bool lost(int fd, int error) noexcept;

    DeviceOps &device_;
    Capabilities capabilities_;
    std::atomic<int> fd_{-1};
};

} // namespace upm

#endif // UPM_BACKENDS_KMOD_HPP
