// SPDX-License-Identifier: MIT
#include "tools/common/files.hpp"

#include "tools/common/descriptor.hpp"
#include "tools/common/errors.hpp"

#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <memory>
#include <sys/stat.h>
#include <unistd.h>

namespace upm::tool {

namespace {

constexpr int kReadFlags = O_RDONLY | O_CLOEXEC | O_NOCTTY;

void write_all(int fd, std::string_view content, const std::string &path) {
    while (!content.empty()) {
        const ssize_t count = ::write(fd, content.data(), content.size());
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            throw SystemError("write", path, errno);
        content.remove_prefix(static_cast<std::size_t>(count));
    }
}

// A device, a pipe or a terminal: its name must not become that of a file.
void write_in_place(const std::string &path, std::string_view content) {
    const Descriptor file(::open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY));
    if (!file)
        throw SystemError("write", path, errno);
    write_all(file.get(), content, path);
}

// What a symbolic link leads to, so that the link stays.
std::string target_of(const std::string &path) {
    std::unique_ptr<char, decltype(&::free)> target(::realpath(path.c_str(), nullptr), ::free);
    return target ? target.get() : path;
}

} // namespace

void write_atomically(const std::string &path, std::string_view content) {
    if (path == "-") {
        write_all(STDOUT_FILENO, content, "standard output");
        return;
    }
    struct stat info {};
    if (::stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) {
        write_in_place(path, content);
        return;
    }
    const std::string target = target_of(path);
    std::string temporary = target + ".XXXXXX";
    const Descriptor file(::mkostemp(temporary.data(), O_CLOEXEC));
    if (!file)
        throw SystemError("write", path, errno);
    try {
        write_all(file.get(), content, path);
        // As if made by open(2) with the usual mode; mkstemp makes 0600.
        const mode_t mask = ::umask(0);
        (void)::umask(mask);
        if (::fchmod(file.get(), 0666U & ~mask) != 0 ||
            ::rename(temporary.c_str(), target.c_str()) != 0)
            throw SystemError("write", path, errno);
    } catch (...) {
        (void)::unlink(temporary.c_str());
        throw;
    }
}

void append_line(const std::string &path, std::string_view line) {
    const Descriptor file(
        ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666)); // umask applies
    if (!file)
        throw SystemError("write", path, errno);
    write_all(file.get(), std::string(line) + "\n", path);
}

std::string read_file(const std::string &path) {
    const Descriptor file(path == "-" ? ::dup(STDIN_FILENO) : ::open(path.c_str(), kReadFlags));
    if (!file)
        throw SystemError("read", path, errno);
    std::string text;
    char block[1U << 16U];
    for (;;) {
        const ssize_t count = ::read(file.get(), block, sizeof(block));
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            throw SystemError("read", path, errno);
        if (count == 0)
            return text;
        text.append(block, static_cast<std::size_t>(count));
    }
}

} // namespace upm::tool
