// SPDX-License-Identifier: MIT
#include "preload/maps.hpp"

#include <cerrno>
#include <charconv>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>

namespace upm::hook {

namespace {

// Takes what is before `delimiter` off the front of `text`.
std::string_view cut(std::string_view &text, char delimiter) noexcept {
    const std::size_t at = text.find(delimiter);
    const std::string_view front = text.substr(0, at);
    text.remove_prefix(at == std::string_view::npos ? text.size() : at + 1);
    return front;
}

bool parse_hex(std::string_view text, std::uintptr_t &value) noexcept {
    const char *const end = text.data() + text.size();
    const auto [rest, error] = std::from_chars(text.data(), end, value, 16);
    return error == std::errc() && rest == end && !text.empty();
}

// "7f00-7f01 rw-p 00000000 00:00 0    name"
bool parse(std::string_view line, Mapping &mapping) noexcept {
    mapping = {};
    std::string_view range = cut(line, ' ');
    const std::string_view start = cut(range, '-');
    const std::string_view flags = cut(line, ' ');
    if (!parse_hex(start, mapping.start) || !parse_hex(range, mapping.end) || flags.size() < 4)
        return false;
    mapping.readable = flags[0] == 'r';
    mapping.writable = flags[1] == 'w';
    mapping.shared = flags[3] == 's';
    (void)cut(line, ' '); // offset
    (void)cut(line, ' '); // device
    mapping.file = cut(line, ' ') != "0";
    const std::size_t name = line.find_first_not_of(' ');
    if (name != std::string_view::npos)
        mapping.name = line.substr(name);
    return true;
}

} // namespace

MapsReader::MapsReader(const char *path) noexcept : fd_(::open(path, O_RDONLY | O_CLOEXEC)) {}

MapsReader::~MapsReader() {
    if (fd_ >= 0)
        ::close(fd_);
}

bool MapsReader::next_line(std::string_view &line) noexcept {
    for (;;) {
        const std::string_view rest(buffer_ + taken_, used_ - taken_);
        const std::size_t newline = rest.find('\n');
        if (newline != std::string_view::npos) {
            line = rest.substr(0, newline);
            taken_ += newline + 1;
            return true;
        }
        if (taken_ == 0 && used_ == kSize)
            return false; // no line of maps is that long
        std::memmove(buffer_, rest.data(), rest.size());
        used_ = rest.size();
        taken_ = 0;
        const ssize_t got = ::read(fd_, buffer_ + used_, kSize - used_);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        used_ += static_cast<std::size_t>(got);
    }
}

bool MapsReader::next(Mapping &mapping) noexcept {
    std::string_view line;
    while (fd_ >= 0 && next_line(line))
        if (parse(line, mapping))
            return true;
    return false;
}

} // namespace upm::hook
