// SPDX-License-Identifier: MIT
//
// The segments whose descriptors one call has. What was mapped of each is reported to
// the broker when it is closed.
#ifndef UPM_STORE_OPEN_SEGMENTS_HPP
#define UPM_STORE_OPEN_SEGMENTS_HPP

#include "libupm/store/client.hpp"

#include <cstddef>
#include <cstdint>

namespace upm::store {

struct OpenSegment {
    std::uint32_t segment = 0;
    std::uint32_t pages = 0; // its size
    int fd = -1;
    std::int64_t mapped = 0; // pages, not reported yet
};

class OpenSegments {
  public:
    explicit OpenSegments(Connection &connection) noexcept : connection_(connection) {}
    OpenSegments(const OpenSegments &) = delete;
    OpenSegments &operator=(const OpenSegments &) = delete;
    ~OpenSegments();

    // That segment if it is open, or null.
    OpenSegment *find(std::uint32_t segment) noexcept;
    // The same, asking the broker for it. Null: `error` says why (ENOENT: it is gone).
    OpenSegment *get(std::uint32_t segment, int &error) noexcept;
    // Takes a descriptor over. What it returns is valid until the next get() or adopt().
    OpenSegment &adopt(std::uint32_t segment, std::uint32_t pages, int fd) noexcept;
    // Closes all; the broker that knew them is gone.
    void forget() noexcept;

  private:
    void close(OpenSegment &open, bool tell) noexcept;

    static constexpr std::size_t kOpen = 8;

    Connection &connection_;
    OpenSegment open_[kOpen];
    std::size_t next_ = 0;
};

} // namespace upm::store

#endif // UPM_STORE_OPEN_SEGMENTS_HPP
