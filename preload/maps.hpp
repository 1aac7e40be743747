// SPDX-License-Identifier: MIT
//
// Reads /proc/PID/maps without memory from the heap: it is read while the hook
// works, and by a thread with a small stack.
#ifndef UPM_PRELOAD_MAPS_HPP
#define UPM_PRELOAD_MAPS_HPP

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace upm::hook {

struct Mapping {
    std::uintptr_t start = 0;
    std::uintptr_t end = 0;
    bool readable = false;
    bool writable = false;
    bool shared = false;
    bool file = false;     // has an inode
    std::string_view name; // path or [heap]; valid until the next one, may be cut
};

class MapsReader {
  public:
    explicit MapsReader(const char *path) noexcept;
    MapsReader(const MapsReader &) = delete;
    MapsReader &operator=(const MapsReader &) = delete;
    ~MapsReader();
    // False at the end, and when the file cannot be read.
    bool next(Mapping &mapping) noexcept;

  private:
    bool next_line(std::string_view &line) noexcept;

    static constexpr std::size_t kSize = 8192; // a line has a path of 4096 at most
    char buffer_[kSize];
    std::size_t used_ = 0;  // bytes in the buffer
    std::size_t taken_ = 0; // of these, already handed out
    int fd_;
};

} // namespace upm::hook

#endif // UPM_PRELOAD_MAPS_HPP
