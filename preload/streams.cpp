// SPDX-License-Identifier: MIT
#include "preload/streams.hpp"

#include "libupm/api/library.hpp"
#include "preload/loads.hpp"
#include "preload/real.hpp"

#include <cstring>
#include <dlfcn.h>
#include <pthread.h>
#include <sys/uio.h>

namespace upm::hook {

namespace {

// Bits of FILE::_flags, from glibc's libio.
enum : unsigned {
    kMagic = 0xFBAD0000,
    kMagicMask = 0xFFFF0000,
    kNoReads = 0x4,
    kInBackup = 0x100, // it reads what was pushed back
    kPutting = 0x800,
    kUserLocks = 0x8000, // __fsetlocking(3)
};
// A buffer of fewer bytes than that does not shorten a read.
constexpr std::size_t kSmallBuffer = 128;
constexpr off_t kUnknown = -1; // FILE::_offset

// The functions of a plain file's stream, and what gives it a buffer. Null: not found.
using MakeBuffer = void (*)(FILE *stream);
constinit const void *plain_functions = nullptr;
constinit MakeBuffer make_buffer = nullptr;

const void *functions_of(const FILE *stream) noexcept {
    const void *functions = nullptr; // they lie behind the structure
    std::memcpy(static_cast<void *>(&functions), stream + 1, sizeof(functions));
    return functions;
}

unsigned flags_of(const FILE *stream) noexcept {
    return static_cast<unsigned>(stream->_flags);
}

bool is_plain(const FILE *stream) noexcept {
    constexpr unsigned kOdd = kNoReads | kInBackup | kPutting;
    return (flags_of(stream) & (kMagicMask | kOdd)) == kMagic && stream->_mode <= 0 &&
           functions_of(stream) == plain_functions;
}

std::size_t buffered(const FILE *stream) noexcept {
    return static_cast<std::size_t>(stream->_IO_read_end - stream->_IO_read_ptr);
}

// How many bytes glibc would read at once for `wanted` bytes that are not in the buffer.
std::size_t whole_buffers(const FILE *stream, std::size_t wanted) noexcept {
    const auto size = static_cast<std::size_t>(stream->_IO_buf_end - stream->_IO_buf_base);
    if (wanted < size)
        return 0;
    return size >= kSmallBuffer ? wanted - wanted % size : wanted;
}

// Its buffer holds nothing, and it is `step` bytes further on in its file.
void move_on(FILE *stream, std::size_t step) noexcept {
    char *const base = stream->_IO_buf_base;
    stream->_IO_read_base = stream->_IO_read_ptr = stream->_IO_read_end = base;
    stream->_IO_write_base = stream->_IO_write_ptr = stream->_IO_write_end = base;
    if (stream->_offset != kUnknown)
        stream->_offset += static_cast<off_t>(step);
}

// Steps 1 and 2. Returns the bytes; 0: nothing was done.
std::size_t read_ahead(char *buffer, std::size_t len, FILE *stream) noexcept {
    if (!is_plain(stream) || buffered(stream) >= len)
        return 0;
    if (stream->_IO_buf_base == nullptr) {
        if (make_buffer == nullptr || stream->_IO_save_base != nullptr)
            return 0;
        make_buffer(stream);
        if (stream->_IO_buf_base == nullptr)
            return 0;
    }
    // The large part first: a page that is touched in front of it may bring a huge page.
    const std::size_t first = buffered(stream);
    const iovec rest{.iov_base = buffer + first, .iov_len = whole_buffers(stream, len - first)};
    ssize_t got = 0;
    if (!may_load(rest.iov_len) || !load_here(stream->_fileno, &rest, 1, got) || got <= 0)
        return 0;
    std::memcpy(buffer, stream->_IO_read_ptr, first);
    move_on(stream, static_cast<std::size_t>(got));
    return first + static_cast<std::size_t>(got);
}

// Holds a stream, as fread does. A thread that is cancelled meanwhile ends behind it: it must
// not leave the stream locked.
class StreamLock {
  public:
    StreamLock(FILE *stream, bool wanted) noexcept
        : stream_(wanted && (flags_of(stream) & kUserLocks) == 0 ? stream : nullptr) {
        ::pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state_);
        if (stream_ != nullptr)
            ::flockfile(stream_);
    }
    StreamLock(const StreamLock &) = delete;
    StreamLock &operator=(const StreamLock &) = delete;
    ~StreamLock() {
        if (stream_ != nullptr)
            ::funlockfile(stream_);
        ::pthread_setcancelstate(cancel_state_, nullptr);
    }

  private:
    FILE *stream_;
    int cancel_state_ = PTHREAD_CANCEL_ENABLE;
};

} // namespace

void find_streams() noexcept {
    plain_functions = functions_of(stdin);
    make_buffer = reinterpret_cast<MakeBuffer>(::dlsym(RTLD_NEXT, "_IO_doallocbuf"));
}

std::size_t read_stream(void *buffer, std::size_t size, std::size_t count, FILE *stream,
                        bool lock) {
    auto *const into = static_cast<char *>(buffer);
    const std::size_t len = size * count;
    if (may_load(len) && concerns_loads(buffer, len)) {
        ::pthread_testcancel();
        const StreamLock guard(stream, lock);
        const std::size_t got = read_ahead(into, len, stream);
        if (got != 0)
            return (got + real().fread_unlocked(into + got, 1, len - got, stream)) / size;
    }
    return lock ? real().fread(buffer, size, count, stream)
                : real().fread_unlocked(buffer, size, count, stream);
}

} // namespace upm::hook
