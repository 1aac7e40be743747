// SPDX-License-Identifier: MIT
#include "tools/pss-report/read/proc.hpp"

#include "tools/common/errors.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <memory>
#include <unistd.h>

namespace upm::tool::pss {

namespace {

constexpr std::size_t kFirstBuffer = std::size_t{64} << 10U;

struct CloseDir {
    void operator()(DIR *dir) const { (void)::closedir(dir); }
};
using Dir = std::unique_ptr<DIR, CloseDir>;

} // namespace

Proc::Proc(Root root)
    : root_(std::move(root)),
      proc_(::open(root_.path("/proc").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)),
      buffer_(kFirstBuffer) {}

std::string_view Proc::drain(int fd, int &error) {
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

std::string_view Proc::read(std::string_view absolute, int &error) {
    const Descriptor file = root_.open(absolute);
    if (!file) {
        error = errno;
        return {};
    }
    return drain(file.get(), error);
}

Descriptor Proc::open_process(int pid, const char *name) const {
    char relative[96];
    (void)std::snprintf(relative, sizeof(relative), "%d/%s", pid, name);
    return Descriptor(::openat(proc_.get(), relative, O_RDONLY | O_CLOEXEC | O_NOCTTY));
}

std::string_view Proc::read_process(int pid, const char *name, int &error) {
    const Descriptor file = open_process(pid, name);
    if (!file) {
        error = errno;
        return {};
    }
    return drain(file.get(), error);
}

std::vector<int> Proc::pids() const {
    const Dir dir(::opendir(root_.path("/proc").c_str()));
    if (!dir)
        throw Failure(root_.path("/proc"), errno);
    std::vector<int> pids;
    while (const dirent *entry = ::readdir(dir.get()))
        if (const auto pid = parse_integer<int>(entry->d_name); pid && *pid > 0)
            pids.push_back(*pid);
    std::sort(pids.begin(), pids.end());
    return pids;
}

std::string of_thread(int thread, const char *name) {
    return fmt::format("task/{}/{}", thread, name);
}

std::string file_of(const Process &process, const char *name) {
    return process.thread == 0 ? name : of_thread(process.thread, name);
}

} // namespace upm::tool::pss
