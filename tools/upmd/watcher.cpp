// SPDX-License-Identifier: MIT
#include "tools/upmd/watcher.hpp"

#include "libupm/base/system.hpp"
#include "libupm/store/segment.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <dirent.h>
#include <fcntl.h>
#include <memory>
#include <string>
#include <unistd.h>

namespace upm::upmd {

namespace {

using broker::Descriptor;

constexpr std::size_t kMostBytes = 16UL * 1024 * 1024; // of one process's mappings
constexpr std::uint64_t kShare = 20;                   // a twentieth of a processor

bool take_number(std::string_view &text, int base, std::uint64_t &number) noexcept {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, base);
    text.remove_prefix(static_cast<std::size_t>(end - text.data()));
    return error == std::errc();
}

// "7f00-7f01 r--p 00000000 00:01 1234    /memfd:upm-store (deleted)"
void add_line(std::string_view line, std::uint64_t page_size, Look &look) {
    std::uint64_t start = 0;
    std::uint64_t end = 0;
    std::uint64_t inode = 0;
    if (!take_number(line, 16, start) || !line.starts_with('-'))
        return;
    line.remove_prefix(1);
    if (!take_number(line, 16, end) || end < start)
        return;
    for (int field = 0; field < 4; ++field) { // rights, offset, device, inode
        const std::size_t blank = line.find(' ');
        if (blank == std::string_view::npos)
            return;
        line.remove_prefix(blank + 1);
    }
    if (take_number(line, 10, inode) && inode != 0)
        look.pages[inode] += (end - start) / page_size;
}

} // namespace

void add_mappings(std::string_view lines, std::uint64_t page_size, Look &look) {
    const std::string marker = std::string("/memfd:") + store::kSegmentName;
    for (std::size_t at = lines.find(marker); at != std::string_view::npos;
         at = lines.find(marker, at + marker.size())) {
        const std::size_t before = lines.rfind('\n', at);
        const std::size_t start = before == std::string_view::npos ? 0 : before + 1;
        add_line(lines.substr(start, at - start), page_size, look);
    }
}

Look read_mappings(int fd, std::size_t most) {
    Look look;
    std::string text(256UL * 1024, '\0');
    std::size_t kept = 0; // of a line that is not complete
    std::size_t sum = 0;
    for (;;) {
        const ssize_t got = ::read(fd, text.data() + kept, text.size() - kept);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            look.gone = errno == ESRCH;
            return look;
        }
        look.readable = true;
        look.any = look.any || got != 0;
        if (got == 0) {
            look.complete = kept == 0;
            return look;
        }
        sum += static_cast<std::size_t>(got);
        const std::string_view all(text.data(), kept + static_cast<std::size_t>(got));
        const std::size_t whole = all.rfind('\n') + 1; // 0: not one
        add_mappings(all.substr(0, whole), page_size(), look);
        kept = all.size() - whole;
        std::copy(all.begin() + static_cast<std::ptrdiff_t>(whole), all.end(), text.begin());
        if (sum >= most || kept == text.size())
            return look;
    }
}

namespace {

// A folder without the file is that of a process, or a thread, that has ended.
Look look_at_thread(int folder) {
    const Descriptor maps(::openat(folder, "maps", O_RDONLY | O_CLOEXEC));
    if (maps)
        return read_mappings(maps.get(), kMostBytes);
    Look look;
    look.gone = errno == ESRCH || errno == ENOENT;
    return look;
}

struct CloseDirectory {
    void operator()(DIR *directory) const noexcept { (void)::closedir(directory); }
};

// When the first thread of a process has ended, and others have not, only they have its
// mappings: the process's own file is empty.
Look look_at(int folder) {
    Look look = look_at_thread(folder);
    if (!look.complete || look.any)
        return look;
    Descriptor task(::openat(folder, "task", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    const std::unique_ptr<DIR, CloseDirectory> threads(task ? ::fdopendir(task.get()) : nullptr);
    if (!threads)
        return look;
    (void)task.release();
    while (const dirent *const entry = ::readdir(threads.get())) {
        const Descriptor thread(
            ::openat(::dirfd(threads.get()), entry->d_name, O_PATH | O_DIRECTORY | O_CLOEXEC));
        if (Look its = thread ? look_at_thread(thread.get()) : Look{}; its.any)
            return its;
    }
    return look;
}

} // namespace

Watcher::Watcher() : crew_({.share = kShare}, work) {}

Watcher::Result Watcher::work(const Task &task) {
    Result result{.process = task.process, .started = now_ms(), .look = {}};
    result.look = look_at(task.folder->get());
    return result;
}

} // namespace upm::upmd
