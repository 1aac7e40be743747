// SPDX-License-Identifier: MIT
#include "tools/common/root.hpp"

#include "tools/common/errors.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <memory>
#include <sys/stat.h>

namespace upm::tool {

namespace {

struct FileCloser {
    void operator()(std::FILE *file) const noexcept { (void)std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, FileCloser>;

struct DirectoryCloser {
    void operator()(DIR *directory) const noexcept { (void)::closedir(directory); }
};

// What getline(3) allocates.
struct LineBuffer {
    LineBuffer() = default;
    LineBuffer(const LineBuffer &) = delete;
    LineBuffer &operator=(const LineBuffer &) = delete;
    ~LineBuffer() { std::free(text); }

    char *text = nullptr;
    std::size_t capacity = 0;
};

} // namespace

Root::Root(std::string prefix) : prefix_(std::move(prefix)) {
    while (!prefix_.empty() && prefix_.back() == '/')
        prefix_.pop_back();
}

bool Root::exists(std::string_view absolute) const {
    struct stat status {};
    return ::stat(path(absolute).c_str(), &status) == 0;
}

bool Root::is_directory(std::string_view absolute) const {
    struct stat status {};
    return ::stat(path(absolute).c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

Descriptor Root::open(std::string_view absolute) const {
    return Descriptor(::open(path(absolute).c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
}

void Root::lines(std::string_view absolute,
                 const std::function<void(std::string_view)> &line) const {
    const std::string name = path(absolute);
    const File file(std::fopen(name.c_str(), "re"));
    if (!file)
        throw SystemError("open", name, errno);
    LineBuffer buffer;
    for (;;) {
        errno = 0;
        const ssize_t length = ::getline(&buffer.text, &buffer.capacity, file.get());
        if (length < 0) {
            // The end of the file and an error are told by the same -1.
            if (std::ferror(file.get()) != 0)
                throw SystemError("read", name, errno);
            return;
        }
        std::string_view text(buffer.text, static_cast<std::size_t>(length));
        if (text.ends_with('\n'))
            text.remove_suffix(1);
        line(text);
    }
}

std::optional<std::string> Root::first_line(std::string_view absolute) const {
    const File file(std::fopen(path(absolute).c_str(), "re"));
    char text[4096];
    if (!file || std::fgets(text, sizeof(text), file.get()) == nullptr)
        return std::nullopt;
    return std::string(trimmed(text));
}

std::vector<Root::Entry> Root::list(std::string_view absolute) const {
    const std::string name = path(absolute);
    const std::unique_ptr<DIR, DirectoryCloser> directory(::opendir(name.c_str()));
    if (!directory) {
        if (errno == ENOENT)
            return {};
        throw SystemError("list", name, errno);
    }
    std::vector<Entry> entries;
    while (const dirent *found = ::readdir(directory.get())) {
        const std::string_view entry = found->d_name;
        struct stat status {};
        if (entry == "." || entry == ".." ||
            ::fstatat(::dirfd(directory.get()), found->d_name, &status, AT_SYMLINK_NOFOLLOW) != 0)
            continue;
        entries.push_back({.name = std::string(entry),
                           .directory = S_ISDIR(status.st_mode),
                           .mode = status.st_mode & 07777U});
    }
    std::sort(entries.begin(), entries.end(),
              [](const Entry &left, const Entry &right) { return left.name < right.name; });
    return entries;
}

std::vector<std::string> Root::names(std::string_view absolute) const {
    std::vector<std::string> names;
    const std::unique_ptr<DIR, DirectoryCloser> directory(::opendir(path(absolute).c_str()));
    if (!directory)
        return names;
    while (const dirent *found = ::readdir(directory.get()))
        if (const std::string_view name = found->d_name; name != "." && name != "..")
            names.emplace_back(name);
    std::sort(names.begin(), names.end());
    return names;
}

} // namespace upm::tool
