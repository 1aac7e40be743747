// SPDX-License-Identifier: MIT
//
// What the mapping of an address is just now, for callers that ask often: by the ioctl
// PROCMAP_QUERY of /proc/PID/maps (Linux 6.11), or by reading the file.
#ifndef UPM_MM_OWN_MAPS_HPP
#define UPM_MM_OWN_MAPS_HPP

#include "libupm/mm/vma_reader.hpp"

#include <cstdint>

namespace upm {

// struct procmap_query of linux/fs.h.
struct MapQuery {
    std::uint64_t size = sizeof(MapQuery);
    std::uint64_t query_flags = 0;
    std::uint64_t query_addr = 0;
    std::uint64_t vma_start = 0;
    std::uint64_t vma_end = 0;
    std::uint64_t vma_flags = 0; // bits below
    std::uint64_t vma_page_size = 0;
    std::uint64_t vma_offset = 0;
    std::uint64_t inode = 0;
    std::uint32_t dev_major = 0;
    std::uint32_t dev_minor = 0;
    std::uint32_t vma_name_size = 0;
    std::uint32_t build_id_size = 0;
    std::uint64_t vma_name_addr = 0;
    std::uint64_t build_id_addr = 0;

    static constexpr std::uint64_t kReadable = 1;
    static constexpr std::uint64_t kWritable = 2;
    static constexpr std::uint64_t kExecutable = 4;
    static constexpr std::uint64_t kShared = 8;

    // Asks for the mapping that query_addr lies in. 0 or -errno: ENOENT (there is none),
    // ENOTTY (a kernel before 6.11).
    int ask(int maps) noexcept;
    // PROT_READ | PROT_WRITE | PROT_EXEC.
    [[nodiscard]] int protection() const noexcept;
};
static_assert(sizeof(MapQuery) == 104);

// Owns a descriptor of the file.
class OwnMaps {
  public:
    // Post: error() is 0 or a negative errno.
    explicit OwnMaps(const char *path = own_maps()) noexcept;
    OwnMaps(const OwnMaps &) = delete;
    OwnMaps &operator=(const OwnMaps &) = delete;
    ~OwnMaps();

    [[nodiscard]] int error() const noexcept { return error_; }
    // Finds the mapping that an address lies in, with those flags that the file itself
    // tells, but no names. False: there is none, or that cannot be told.
    bool find(std::uint64_t address, Vma &vma) const noexcept;
    // Returns true if all of [start, end) is mapped, private, with this protection.
    [[nodiscard]] bool all_private(std::uint64_t start, std::uint64_t end,
                                   int protection) const noexcept;

  private:
    const char *path_;
    int fd_;
    int error_ = 0;
};

} // namespace upm

#endif // UPM_MM_OWN_MAPS_HPP
