// SPDX-License-Identifier: MIT
#include "tools/upm/files.hpp"

#include "tools/upm/errors.hpp"
#include "tools/upm/text.hpp"

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

SystemError::SystemError(const std::string &operation, std::string subject, int error)
    : std::runtime_error("cannot " + operation + " " + printable(subject) + ": " +
                         std::strerror(error)),
      subject_(std::move(subject)), error_(error) {}

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

bool Root::exists(std::string_view absolute) const {
    struct stat status {};
    return ::stat(path(absolute).c_str(), &status) == 0;
}

bool Root::is_directory(std::string_view absolute) const {
    struct stat status {};
    return ::stat(path(absolute).c_str(), &status) == 0 && S_ISDIR(status.st_mode);
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

std::optional<unsigned long long> Root::number(std::string_view absolute) const {
    const std::optional<std::string> text = first_line(absolute);
    return text ? parse_unsigned(*text, 10) : std::nullopt;
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

} // namespace upm::tool
