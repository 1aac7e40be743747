// SPDX-License-Identifier: MIT
//
// Publishing new content. Pages are copied into a segment while they are frozen, and
// mapped from there at once: copy and original cannot differ, so nobody has to compare
// them. Only then is the segment sealed and handed to the broker. If that fails, the
// pages become private memory again.
//
// A page may be written to after it was hashed and before it is copied. So the copies are
// hashed once more, and published as what they are: else nobody could share the content
// that has the first hash for as long as that segment is there.
#ifndef UPM_STORE_PUBLISH_HPP
#define UPM_STORE_PUBLISH_HPP

#include "libupm/store/client.hpp"
#include "libupm/store/lookup.hpp"
#include "libupm/store/open_segments.hpp"
#include "libupm/store/plan.hpp"
#include "libupm/store/replace.hpp"
#include "libupm/store/segment.hpp"
#include "libupm/store/window.hpp"

#include <cstdint>

namespace upm::store {

// Returns true for errors after which the connection is of no use any more.
bool broken(int error) noexcept;

class Publisher {
  public:
    // No error: what was looked up is to be looked up once more.
    static constexpr int kAgain = 1;

    Publisher(Connection &connection, Lookup &lookup, OpenSegments &segments) noexcept
        : connection_(connection), lookup_(lookup), segments_(segments) {}

    // Publishes the pages that this client has reserved. Post: 0, and those that were
    // published are merged or wait to be compared with their copies; kAgain, and nothing
    // is done; or -errno: the broker cannot be reached.
    int publish(Window &window, Replacer &replacer, bool fold) noexcept;

  private:
    int make(SegmentWriter &writer, Window &window, Replacer &replacer) noexcept;
    int fill(SegmentWriter &writer, Window &window, Replacer &replacer,
             std::uint32_t &complete) noexcept;
    static int fill_batch(SegmentWriter &writer, Window &window, Replacer &replacer,
                          const Run &batch) noexcept;
    int correct_hashes(int fd) noexcept;
    int give_up(Window &window, Replacer &replacer, int error, bool sealed) noexcept;
    void adopt(Window &window, std::uint32_t segment, int fd) noexcept;

    Connection &connection_;
    Lookup &lookup_;
    OpenSegments &segments_;
    bool huge_ = true; // until the quota has no room for padding
    Plan plan_;
};

} // namespace upm::store

#endif // UPM_STORE_PUBLISH_HPP
