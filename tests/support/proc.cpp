// SPDX-License-Identifier: MIT
#include "tests/support/proc.hpp"

#include "tests/support/file.hpp"
#include "tests/support/region.hpp"

#include <algorithm>
#include <cstdint>
#include <set>
#include <sstream>

#include <fcntl.h>
#include <unistd.h>

namespace upm::test {

namespace {

constexpr std::uint64_t kFrameMask = (std::uint64_t{1} << 55) - 1;
constexpr std::uint64_t kSwapped = std::uint64_t{1} << 62;
constexpr std::uint64_t kPresent = std::uint64_t{1} << 63;

std::vector<std::uint64_t> read_words(const std::string &path, std::uint64_t first,
                                      std::size_t count) {
    const Fd fd(must(::open(path.c_str(), O_RDONLY | O_CLOEXEC), path.c_str()));
    std::vector<std::uint64_t> words(count);
    const std::size_t bytes = count * sizeof(std::uint64_t);
    const auto offset = static_cast<off_t>(first * sizeof(std::uint64_t));
    const ssize_t n = must(::pread(fd.get(), words.data(), bytes, offset), path.c_str());
    words.resize(static_cast<std::size_t>(n) / sizeof(std::uint64_t));
    return words;
}

std::vector<std::uint64_t> pagemap(pid_t pid, const void *addr, std::size_t pages) {
    const std::string path =
        "/proc/" + (pid == 0 ? std::string("self") : std::to_string(pid)) + "/pagemap";
    auto words = read_words(path, reinterpret_cast<std::uintptr_t>(addr) / kPage, pages);
    words.resize(pages);
    return words;
}

// `Name:   123 kB` to bytes, if the line has that name.
void take(const std::string &line, const std::string &name, std::uint64_t &sum) {
    if (line.starts_with(name + ":"))
        sum += std::stoull(line.substr(name.size() + 1)) * 1024;
}

// The frame of the kernel's zero page, which a read of untouched memory maps.
std::uint64_t zero_frame() {
    static const std::uint64_t frame = [] {
        const Mapping page(kPage);
        static_cast<void>(*static_cast<volatile std::byte *>(page.base()));
        return pagemap(0, page.base(), 1)[0] & kFrameMask;
    }();
    return frame;
}

} // namespace

Frames frames_of(pid_t pid, const void *addr, std::size_t pages) {
    Frames frames;
    for (const std::uint64_t word : pagemap(pid, addr, pages)) {
        const std::uint64_t frame = word & kFrameMask;
        frames.push_back((word & kPresent) && frame != zero_frame() ? frame : 0);
    }
    return frames;
}

std::optional<Frames> own_frames(const void *addr, std::size_t pages) {
    // Without CAP_SYS_ADMIN the kernel shows zeros.
    if (zero_frame() == 0)
        return std::nullopt;
    return frames_of(0, addr, pages);
}

std::vector<bool> swapped_of(pid_t pid, const void *addr, std::size_t pages) {
    std::vector<bool> swapped;
    for (const std::uint64_t word : pagemap(pid, addr, pages))
        swapped.push_back((word & kSwapped) != 0);
    return swapped;
}

std::size_t equal_frames(const Frames &a, const Frames &b) {
    std::size_t equal = 0;
    for (std::size_t i = 0; i < std::min(a.size(), b.size()); i++)
        equal += a[i] != 0 && a[i] == b[i];
    return equal;
}

std::size_t common_frames(const Frames &a, const Frames &b) {
    const std::set<std::uint64_t> known(b.begin(), b.end());
    return static_cast<std::size_t>(std::count_if(
        a.begin(), a.end(), [&](auto frame) { return frame != 0 && known.contains(frame); }));
}

std::size_t present_frames(const Frames &frames) {
    return frames.size() -
           static_cast<std::size_t>(std::count(frames.begin(), frames.end(), std::uint64_t{0}));
}

std::size_t distinct_frames(const Frames &frames) {
    std::set<std::uint64_t> known(frames.begin(), frames.end());
    known.erase(0);
    return known.size();
}

bool frame_has(std::uint64_t frame, unsigned flag) {
    const auto words = read_words("/proc/kpageflags", frame, 1);
    return !words.empty() && ((words[0] >> flag) & 1) != 0;
}

std::size_t frames_with(const Frames &frames, unsigned flag) {
    return static_cast<std::size_t>(std::count_if(frames.begin(), frames.end(), [&](auto frame) {
        return frame != 0 && frame_has(frame, flag);
    }));
}

Usage parse_smaps(const std::string &text, std::uint64_t from, std::uint64_t to) {
    std::istringstream lines(text);
    std::string line;
    Usage usage;
    bool inside = false;
    while (std::getline(lines, line)) {
        const auto dash = line.find('-');
        const auto colon = line.find(':');
        if (dash != std::string::npos && dash < colon && dash < line.find(' ')) {
            const std::uint64_t start = std::stoull(line, nullptr, 16);
            const std::uint64_t end = std::stoull(line.substr(dash + 1), nullptr, 16);
            inside = start < to && end > from;
            usage.mappings += inside ? 1 : 0;
        }
        if (!inside)
            continue;
        take(line, "Size", usage.size);
        take(line, "Rss", usage.rss);
        take(line, "Pss", usage.pss);
        take(line, "AnonHugePages", usage.anon_huge);
        take(line, "Swap", usage.swap);
        take(line, "Locked", usage.locked);
    }
    return usage;
}

Usage usage_of(pid_t pid, const void *addr, std::size_t len) {
    const auto from = reinterpret_cast<std::uintptr_t>(addr);
    const std::string who = pid == 0 ? "self" : std::to_string(pid);
    return parse_smaps(read_file("/proc/" + who + "/smaps"), from, from + len);
}

std::vector<MapEntry> maps_of(pid_t pid) {
    const std::string who = pid == 0 ? "self" : std::to_string(pid);
    std::istringstream lines(read_file("/proc/" + who + "/maps"));
    std::string line;
    std::vector<MapEntry> entries;
    while (std::getline(lines, line)) {
        std::istringstream words(line);
        std::string range;
        std::string offset;
        std::string device;
        std::string inode;
        MapEntry entry;
        words >> range >> entry.flags >> offset >> device >> inode >> std::ws;
        std::getline(words, entry.name);
        entry.start = std::stoull(range, nullptr, 16);
        entry.end = std::stoull(range.substr(range.find('-') + 1), nullptr, 16);
        entries.push_back(entry);
    }
    return entries;
}

std::uint64_t meminfo(const std::string &field) {
    std::istringstream lines(read_file("/proc/meminfo"));
    std::string line;
    std::uint64_t bytes = 0;
    while (std::getline(lines, line))
        take(line, field, bytes);
    return bytes;
}

} // namespace upm::test
