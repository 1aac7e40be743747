// SPDX-License-Identifier: MIT
//
// The hooked functions that read streams (fread). As in load_hooks.cpp, small pieces cost a
// comparison and a jump.
#include "preload/loads.hpp"
#include "preload/real.hpp"
#include "preload/streams.hpp"

#include <cstddef>
#include <cstdio>

#define UPM_HOOK extern "C" __attribute__((visibility("default")))

using namespace upm::hook; // NOLINT(google-build-using-namespace): the hooks are C functions

namespace {

// Returns true if so many items may be worth it. An overflow is libc's to deal with.
bool worthwhile(std::size_t size, std::size_t count) noexcept {
    std::size_t bytes = 0;
    return !__builtin_mul_overflow(size, count, &bytes) && is_large(bytes);
}

} // namespace

UPM_HOOK std::size_t fread(void *buffer, std::size_t size, std::size_t count, FILE *stream) {
    if (worthwhile(size, count)) [[unlikely]]
        return read_stream(buffer, size, count, stream, true);
    return real().fread(buffer, size, count, stream);
}

UPM_HOOK std::size_t fread_unlocked(void *buffer, std::size_t size, std::size_t count,
                                    FILE *stream) {
    if (worthwhile(size, count)) [[unlikely]]
        return read_stream(buffer, size, count, stream, false);
    return real().fread_unlocked(buffer, size, count, stream);
}

// For programs that were built with _FORTIFY_SOURCE: what does not fit ends the program.
// NOLINTBEGIN(bugprone-reserved-identifier,readability-identifier-naming)

UPM_HOOK std::size_t __fread_chk(void *buffer, std::size_t room, std::size_t size,
                                 std::size_t count, FILE *stream) {
    if (worthwhile(size, count) && size * count <= room) [[unlikely]]
        return read_stream(buffer, size, count, stream, true);
    if (ready() && real().__fread_chk != nullptr)
        return real().__fread_chk(buffer, room, size, count, stream);
    return ::fread(buffer, size, count, stream);
}

UPM_HOOK std::size_t __fread_unlocked_chk(void *buffer, std::size_t room, std::size_t size,
                                          std::size_t count, FILE *stream) {
    if (worthwhile(size, count) && size * count <= room) [[unlikely]]
        return read_stream(buffer, size, count, stream, false);
    if (ready() && real().__fread_unlocked_chk != nullptr)
        return real().__fread_unlocked_chk(buffer, room, size, count, stream);
    return ::fread_unlocked(buffer, size, count, stream);
}

// NOLINTEND(bugprone-reserved-identifier,readability-identifier-naming)
