// SPDX-License-Identifier: MIT
#include "libupm/mm/vma_reader.hpp"

#include "libupm/mm/pagemap.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace upm {

namespace {

struct NamedFlag {
    std::string_view name;
    VmaFlag flag;
};

// Of mappings, as the kernel and the backend store name them.
constexpr NamedFlag kNames[] = {
    {"[heap]", kVmaHeap}, {"[stack]", kVmaStack}, {"/memfd:upm-store", kVmaSegment}};

constexpr NamedFlag kNamedFlags[] = {
    {"ht", kVmaHugetlb}, {"io", kVmaSpecial},  {"pf", kVmaSpecial}, {"de", kVmaSpecial},
    {"mm", kVmaSpecial}, {"dd", kVmaSecret},   {"wf", kVmaSecret},  {"dp", kVmaSecret},
    {"um", kVmaUffd},    {"uw", kVmaUffd},     {"ui", kVmaUffd},    {"mg", kVmaMergeable},
    {"lo", kVmaLocked},  {"dc", kVmaDontfork}, {"gd", kVmaStack},
};

// The next word of `line`, which shrinks by it.
std::string_view take_word(std::string_view &line) noexcept {
    const std::size_t start = line.find_first_not_of(' ');
    if (start == std::string_view::npos) {
        line = {};
        return {};
    }
    line.remove_prefix(start);
    const std::string_view word = line.substr(0, line.find(' '));
    line.remove_prefix(word.size());
    return word;
}

bool parse_number(std::string_view text, int base, std::uint64_t &value) noexcept {
    const char *const end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, value, base);
    return error == std::errc() && stop == end;
}

bool first_thread_lives() noexcept {
    return ::syscall(SYS_gettid) == ::getpid() || PageMap(PageMap::kThisProcess).shows_memory();
}

} // namespace

const char *own_proc() noexcept {
    return first_thread_lives() ? "/proc/self" : "/proc/thread-self";
}

const char *own_maps() noexcept {
    return first_thread_lives() ? "/proc/self/maps" : "/proc/thread-self/maps";
}

const char *own_smaps() noexcept {
    return first_thread_lives() ? "/proc/self/smaps" : "/proc/thread-self/smaps";
}

// "7f0a00000000-7f0a00021000 rw-p 00000000 fe:00 1234   /some path"
bool parse_vma_header(std::string_view line, Vma &vma, std::string_view *name) noexcept {
    const std::string_view range = take_word(line);
    const std::size_t dash = range.find('-');
    if (dash == std::string_view::npos)
        return false;
    const std::string_view permissions = take_word(line);
    take_word(line); // offset
    take_word(line); // device
    std::uint64_t inode = 0;
    if (permissions.size() != 4 || !parse_number(range.substr(0, dash), 16, vma.start) ||
        !parse_number(range.substr(dash + 1), 16, vma.end) ||
        !parse_number(take_word(line), 10, inode))
        return false;
    vma.flags = (permissions[3] == 's' ? kVmaShared : 0U) | (inode != 0 ? kVmaFile : 0U);
    vma.protection = (permissions[0] == 'r' ? PROT_READ : 0) |
                     (permissions[1] == 'w' ? PROT_WRITE : 0) |
                     (permissions[2] == 'x' ? PROT_EXEC : 0);
    if (name != nullptr)
        *name = line.substr(std::min(line.find_first_not_of(' '), line.size()));
    const std::string_view word = take_word(line);
    for (const NamedFlag &named : kNames)
        if (word == named.name)
            vma.flags |= named.flag;
    return true;
}

std::uint32_t parse_vm_flags(std::string_view words) noexcept {
    std::uint32_t flags = 0;
    for (std::string_view word = take_word(words); !word.empty(); word = take_word(words))
        for (const NamedFlag &named : kNamedFlags)
            if (word == named.name)
                flags |= named.flag;
    return flags;
}

SmapsReader::SmapsReader(const char *path) noexcept : fd_(::open(path, O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0)
        error_ = -errno;
}

SmapsReader::~SmapsReader() {
    if (fd_ >= 0)
        ::close(fd_);
}

bool SmapsReader::fill() noexcept {
    if (begin_ > 0) {
        std::memmove(buffer_, buffer_ + begin_, end_ - begin_);
        end_ -= begin_;
        begin_ = 0;
    }
    ssize_t got = 0;
    do
        got = ::read(fd_, buffer_ + end_, sizeof(buffer_) - end_);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        error_ = -errno;
    if (got <= 0)
        return false;
    end_ += static_cast<std::size_t>(got);
    return true;
}

// A line without its newline, valid until the next call. Of a line longer than
// the buffer (a path may be) the beginning is returned, and the rest is dropped.
bool SmapsReader::line(std::string_view &line) noexcept {
    if (fd_ < 0)
        return false;
    std::size_t seen = 0;
    for (;;) {
        const std::string_view rest(buffer_ + begin_, end_ - begin_);
        const std::size_t newline = rest.find('\n', seen);
        if (newline != std::string_view::npos) {
            line = rest.substr(0, newline);
            begin_ += newline + 1;
            return true;
        }
        seen = rest.size();
        if (rest.size() == sizeof(buffer_)) {
            // Keep what matters, the front, and make room behind it.
            end_ = begin_ + sizeof(buffer_) / 2;
            seen = end_ - begin_;
        }
        if (!fill())
            return false;
    }
}

bool SmapsReader::next_header(Vma &vma, std::string_view *name) noexcept {
    std::string_view text;
    while (line(text))
        if (parse_vma_header(text, vma, name))
            return true;
    return false;
}

bool SmapsReader::next(Vma &vma) noexcept {
    constexpr std::string_view kFlagsLine = "VmFlags:";
    constexpr std::string_view kKeyLine = "ProtectionKey:";
    bool found = false;
    std::string_view text;
    while (line(text)) {
        if (!found)
            found = parse_vma_header(text, vma);
        else if (text.starts_with(kKeyLine)) {
            text.remove_prefix(kKeyLine.size());
            vma.flags |= take_word(text) != "0" ? kVmaKey : 0U;
        } else if (text.starts_with(kFlagsLine)) {
            vma.flags |= parse_vm_flags(text.substr(kFlagsLine.size()));
            return true;
        }
    }
    return false;
}

} // namespace upm
