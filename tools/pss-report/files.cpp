// SPDX-License-Identifier: MIT
#include "tools/pss-report/files.hpp"

#include "tools/pss-report/errors.hpp"
#include "tools/pss-report/text.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <memory>
#include <sys/stat.h>
#include <unistd.h>

namespace upm::pss {

namespace {

constexpr std::size_t kFirstBuffer = std::size_t{64} << 10U;
constexpr int kReadFlags = O_RDONLY | O_CLOEXEC | O_NOCTTY;

struct CloseDir {
    void operator()(DIR *dir) const { (void)::closedir(dir); }
};
using Dir = std::unique_ptr<DIR, CloseDir>;

void write_all(int fd, std::string_view content, const std::string &path) {
    while (!content.empty()) {
        const ssize_t count = ::write(fd, content.data(), content.size());
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            throw Failure(path, errno);
        content.remove_prefix(static_cast<std::size_t>(count));
    }
}

} // namespace

Descriptor &Descriptor::operator=(Descriptor &&other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
}

Descriptor::~Descriptor() {
    if (fd_ >= 0)
        (void)::close(fd_);
}

Root::Root(std::string prefix) : prefix_(std::move(prefix)), buffer_(kFirstBuffer) {
    while (!prefix_.empty() && prefix_.back() == '/')
        prefix_.pop_back();
    proc_ = Descriptor(::open(path("/proc").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

std::string_view Root::drain(int fd, int &error) {
    std::size_t used = 0;
    for (;;) {
        if (used == buffer_.size())
            buffer_.resize(buffer_.size() * 2);
        const ssize_t count = ::read(fd, buffer_.data() + used, buffer_.size() - used);
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0) {
            error = count < 0 ? errno : 0;
            return {buffer_.data(), used};
        }
        used += static_cast<std::size_t>(count);
    }
}

std::string_view Root::read(std::string_view absolute, int &error) {
    const Descriptor file = open(absolute);
    if (!file.valid()) {
        error = errno;
        return {};
    }
    return drain(file.get(), error);
}

Descriptor Root::open(std::string_view absolute) const {
    return Descriptor(::open(path(absolute).c_str(), kReadFlags));
}

Descriptor Root::open_process(int pid, const char *name) const {
    char relative[64];
    (void)std::snprintf(relative, sizeof(relative), "%d/%s", pid, name);
    return Descriptor(::openat(proc_.get(), relative, kReadFlags));
}

std::string_view Root::read_process(int pid, const char *name, int &error) {
    const Descriptor file = open_process(pid, name);
    if (!file.valid()) {
        error = errno;
        return {};
    }
    return drain(file.get(), error);
}

std::vector<std::string> Root::list(std::string_view absolute) const {
    std::vector<std::string> names;
    const Dir dir(::opendir(path(absolute).c_str()));
    if (!dir)
        return names;
    while (const dirent *entry = ::readdir(dir.get()))
        if (const std::string_view name = entry->d_name; name != "." && name != "..")
            names.emplace_back(name);
    std::sort(names.begin(), names.end());
    return names;
}

std::vector<int> Root::pids() const {
    const Dir dir(::opendir(path("/proc").c_str()));
    if (!dir)
        throw Failure(path("/proc"), errno);
    std::vector<int> pids;
    while (const dirent *entry = ::readdir(dir.get()))
        if (const auto pid = parse_integer<int>(entry->d_name); pid && *pid > 0)
            pids.push_back(*pid);
    std::sort(pids.begin(), pids.end());
    return pids;
}

bool Root::exists(std::string_view absolute) const {
    struct stat info {};
    return ::stat(path(absolute).c_str(), &info) == 0;
}

std::optional<std::int64_t> Root::number(std::string_view absolute) {
    int error = 0;
    const std::string_view text = read(absolute, error);
    return error ? std::nullopt : parse_integer<std::int64_t>(trimmed(text));
}

namespace {

// A device, a pipe or a terminal: its name must not become that of a file.
void write_in_place(const std::string &path, std::string_view content) {
    const Descriptor file(::open(path.c_str(), O_WRONLY | O_CLOEXEC | O_NOCTTY));
    if (!file.valid())
        throw Failure(path, errno);
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
    if (!file.valid())
        throw Failure(temporary, errno);
    try {
        write_all(file.get(), content, temporary);
        // As if made by open(2) with the usual mode; mkstemp makes 0600.
        const mode_t mask = ::umask(0);
        (void)::umask(mask);
        if (::fchmod(file.get(), 0666U & ~mask) != 0 ||
            ::rename(temporary.c_str(), target.c_str()) != 0)
            throw Failure(path, errno);
    } catch (...) {
        (void)::unlink(temporary.c_str());
        throw;
    }
}

void append_line(const std::string &path, std::string_view line) {
    const Descriptor file(
        ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666)); // umask applies
    if (!file.valid())
        throw Failure(path, errno);
    write_all(file.get(), std::string(line) + "\n", path);
}

std::string read_file(const std::string &path) {
    const Descriptor file(path == "-" ? ::dup(STDIN_FILENO) : ::open(path.c_str(), kReadFlags));
    if (!file.valid())
        throw Failure(path, errno);
    std::string text;
    char block[1U << 16U];
    for (;;) {
        const ssize_t count = ::read(file.get(), block, sizeof(block));
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            throw Failure(path, errno);
        if (count == 0)
            return text;
        text.append(block, static_cast<std::size_t>(count));
    }
}

} // namespace upm::pss
