// SPDX-License-Identifier: MIT
//
// What the kernel says of single pages: /proc/PID/pagemap, with its ioctl PAGEMAP_SCAN
// (Linux 6.7).
#ifndef UPM_MM_PAGEMAP_HPP
#define UPM_MM_PAGEMAP_HPP

#include <cstdint>

namespace upm {

// Bits of an entry (the kernel's Documentation/admin-guide/mm/pagemap.rst).
inline constexpr std::uint64_t kPagePresent = 1ULL << 63;
inline constexpr std::uint64_t kPageSwapped = 1ULL << 62;
inline constexpr std::uint64_t kPageOfFile = 1ULL << 61;         // or of shared memory
inline constexpr std::uint64_t kPageExclusive = 1ULL << 56;      // no other process maps it
inline constexpr std::uint64_t kPageWriteProtected = 1ULL << 57; // by userfaultfd

// Owns a descriptor of the file.
class PageMap {
  public:
    static constexpr const char *kThisProcess = "/proc/self/pagemap";

    // That of this process, also when its first thread has ended: /proc/self shows no memory
    // then. Post: error() is 0 or a negative errno.
    PageMap() noexcept;
    explicit PageMap(const char *path) noexcept;
    PageMap(const PageMap &) = delete;
    PageMap &operator=(const PageMap &) = delete;
    ~PageMap();

    [[nodiscard]] int error() const noexcept { return error_; }

    // Returns true if it shows memory of this process.
    [[nodiscard]] bool shows_memory() const noexcept;

    // Reads the entries of `pages` pages from the address `start` on. 0 or -errno: EIO
    // if there are not that many.
    int read(std::uint64_t start, std::uint32_t pages, std::uint64_t *entries) const noexcept;

    // Returns true if every page of a range is in memory; false also if that cannot be
    // told. It takes page tables only, where read() looks at each page's own record.
    [[nodiscard]] bool all_present(std::uint64_t start, std::uint64_t size) const noexcept;

  private:
    int fd_;
    int error_ = 0;
};

} // namespace upm

#endif // UPM_MM_PAGEMAP_HPP
