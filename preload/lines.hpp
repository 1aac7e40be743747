// SPDX-License-Identifier: MIT
//
// The lines of a file of procfs, one after the other, without memory from the heap.
#ifndef UPM_PRELOAD_LINES_HPP
#define UPM_PRELOAD_LINES_HPP

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fcntl.h>
#include <string_view>
#include <system_error>
#include <unistd.h>
#include <utility>

namespace upm::hook {

class Lines {
  public:
    explicit Lines(const char *path) noexcept : fd_(::open(path, O_RDONLY | O_CLOEXEC)) {}
    Lines(const Lines &) = delete;
    Lines &operator=(const Lines &) = delete;
    ~Lines() {
        if (fd_ >= 0)
            ::close(fd_);
    }

    // Without its newline, valid until the next call; of a longer line than there is room for,
    // the beginning. False at the end, or if the file cannot be read.
    bool next(std::string_view &line) noexcept {
        for (;;) {
            const std::string_view text(room_ + begin_, end_ - begin_);
            const std::size_t newline = text.find('\n');
            const bool whole = newline != std::string_view::npos;
            if (!whole && text.size() < sizeof(room_)) {
                if (!fill())
                    return false;
                continue;
            }
            begin_ += whole ? newline + 1 : text.size();
            // What follows a beginning that was returned is dropped.
            const bool is_rest = std::exchange(in_line_, !whole);
            if (is_rest)
                continue;
            line = text.substr(0, newline);
            return true;
        }
    }

  private:
    bool fill() noexcept {
        std::memmove(room_, room_ + begin_, end_ - begin_);
        end_ -= begin_;
        begin_ = 0;
        ssize_t got = -1;
        do
            got = fd_ >= 0 ? ::read(fd_, room_ + end_, sizeof(room_) - end_) : 0;
        while (got < 0 && errno == EINTR);
        end_ += got > 0 ? static_cast<std::size_t>(got) : 0;
        return got > 0;
    }

    int fd_;
    bool in_line_ = false; // the beginning of a line was returned
    std::size_t begin_ = 0;
    std::size_t end_ = 0;
    char room_[2048];
};

// Returns true if a line begins with this field and a number follows, which it reads.
inline bool read_field(std::string_view line, std::string_view field, unsigned long &value,
                       int base) noexcept {
    if (!line.starts_with(field))
        return false;
    line.remove_prefix(std::min(line.find_first_not_of(" \t", field.size()), line.size()));
    return std::from_chars(line.data(), line.data() + line.size(), value, base).ec == std::errc();
}

} // namespace upm::hook

#endif // UPM_PRELOAD_LINES_HPP
