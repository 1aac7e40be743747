// SPDX-License-Identifier: MIT
#include "tools/upm/read/mappings.hpp"

#include "tools/common/errors.hpp"
#include "tools/common/text.hpp"

#include <cerrno>
#include <fmt/format.h>

namespace upm::tool::cli {

namespace {

bool is_octal(char c) {
    return c >= '0' && c <= '7';
}

// The kernel writes blanks and backslashes in mountinfo as \ooo.
std::string unescape_octal(std::string_view text) {
    std::string result;
    for (std::size_t i = 0; i < text.size(); ++i) {
        if (text[i] == '\\' && i + 3 < text.size() && is_octal(text[i + 1]) &&
            is_octal(text[i + 2]) && is_octal(text[i + 3])) {
            result += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 +
                                        (text[i + 3] - '0'));
            i += 3;
        } else {
            result += text[i];
        }
    }
    return result;
}

} // namespace

// "36 35 98:0 /root /point rw,noatime master:1 - ext3 /dev/root rw,errors=continue"
std::optional<Mount> parse_mount(std::string_view line) {
    Mount mount;
    for (int skipped = 0; skipped < 3; ++skipped)
        take_word(line);
    mount.root = unescape_octal(take_word(line));
    mount.point = unescape_octal(take_word(line));
    std::string_view word;
    do {
        word = take_word(line);
        if (word.empty())
            return std::nullopt;
    } while (word != "-");
    mount.type = unescape_octal(take_word(line));
    take_word(line); // source
    mount.super_options = std::string(take_word(line));
    if (mount.point.empty() || mount.type.empty())
        return std::nullopt;
    return mount;
}

std::vector<Mapping> read_mappings(const Root &root, int pid) {
    const std::string path = fmt::format("/proc/{}/maps", pid);
    std::vector<Mapping> mappings;
    try {
        root.lines(path, [&](std::string_view line) {
            if (std::optional<Mapping> mapping = parse_mapping(line))
                mappings.push_back(std::move(*mapping));
        });
    } catch (const SystemError &error) {
        // No folder in /proc is what "no such process" looks like.
        if (error.error() == ENOENT)
            throw SystemError("read", error.subject(), ESRCH);
        throw;
    }
    return mappings;
}

std::vector<Mount> read_mounts(const Root &root) {
    std::vector<Mount> mounts;
    root.lines("/proc/self/mountinfo", [&](std::string_view line) {
        if (std::optional<Mount> mount = parse_mount(line))
            mounts.push_back(std::move(*mount));
    });
    return mounts;
}

std::vector<std::string> hugetlb_mounts(const std::vector<Mount> &mounts) {
    std::vector<std::string> points;
    for (const Mount &mount : mounts)
        if (mount.type == "hugetlbfs")
            points.push_back(mount.point + "/");
    return points;
}

std::string command_name(const Root &root, int pid) {
    std::string name;
    try {
        // A name may contain a newline; only the last one is the kernel's.
        root.lines(fmt::format("/proc/{}/comm", pid), [&](std::string_view line) {
            if (!name.empty())
                name += '\n';
            name += line;
        });
    } catch (const SystemError &) {
        name.clear();
    }
    return name;
}

} // namespace upm::tool::cli
