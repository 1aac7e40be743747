// SPDX-License-Identifier: MIT
#include "libupm/store/open_segments.hpp"

#include <algorithm>
#include <unistd.h>

namespace upm::store {

OpenSegments::~OpenSegments() {
    for (OpenSegment &open : open_)
        close(open, true);
}

OpenSegment *OpenSegments::find(std::uint32_t segment) noexcept {
    OpenSegment *const found = std::find_if(open_, open_ + kOpen, [&](const OpenSegment &open) {
        return open.fd >= 0 && open.segment == segment;
    });
    return found != open_ + kOpen ? found : nullptr;
}

OpenSegment *OpenSegments::get(std::uint32_t segment, int &error) noexcept {
    if (OpenSegment *const open = find(segment); open != nullptr)
        return open;
    int fd = -1;
    std::uint32_t pages = 0;
    error = connection_.get(segment, fd, pages);
    return error == 0 ? &adopt(segment, pages, fd) : nullptr;
}

OpenSegment &OpenSegments::adopt(std::uint32_t segment, std::uint32_t pages, int fd) noexcept {
    OpenSegment &open = open_[next_++ % kOpen];
    close(open, true);
    open = {.segment = segment, .pages = pages, .fd = fd, .mapped = 0};
    return open;
}

void OpenSegments::forget() noexcept {
    for (OpenSegment &open : open_)
        close(open, false);
}

void OpenSegments::close(OpenSegment &open, bool tell) noexcept {
    if (open.fd < 0)
        return;
    if (tell && open.mapped != 0)
        (void)connection_.report(open.segment, open.mapped);
    ::close(open.fd);
    open = {};
}

} // namespace upm::store
