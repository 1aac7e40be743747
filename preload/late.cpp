// SPDX-License-Identifier: MIT
#include "preload/late.hpp"

#include "libupm/base/descriptor_table.hpp"
#include "preload/adviser.hpp"
#include "preload/local.hpp"
#include "preload/page.hpp"

#include <algorithm>
#include <array>
#include <cstdio>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace upm::hook {

namespace {

// Beyond these, what is late stays private.
constexpr std::size_t kMostParts = 256;
constexpr std::size_t kMostFiles = 16;
constexpr std::size_t kLongestPath = 1024;
// The pauses are half a second, one, two, and so on up to more than a minute.
constexpr unsigned kMostTries = 9;
constexpr std::uint64_t kFirstPauseNs = 500'000'000;

// A path, not a descriptor: that would keep a file system from being unmounted, and a file
// that is deleted from going away.
struct File {
    dev_t device = 0;
    ino_t inode = 0;
    char path[kLongestPath] = {};
};

// Under Local::late.
constinit std::array<LatePart, kMostParts> parts;
constinit std::size_t count = 0;
constinit std::array<File, kMostFiles> files;
constinit std::uint32_t taken = 0; // the file of the part that was taken last
constinit std::atomic<std::uint64_t> next{UINT64_MAX};

void find_next() noexcept {
    std::uint64_t least = UINT64_MAX;
    for (std::size_t i = 0; i < count; ++i)
        least = std::min(least, parts[i].due_ns);
    next = least;
}

bool stale(const LatePart &part) noexcept {
    const State state = part.block != nullptr ? part.block->state.load() : State::kEmpty;
    return state == State::kEmpty || part.block->number != part.number ||
           (state != State::kLive && state != State::kBusy);
}

// Parts of the same memory, and those of blocks that are gone.
void drop_before(const LatePart &fresh) noexcept {
    auto *const end =
        std::remove_if(parts.begin(), parts.begin() + count, [&](const LatePart &part) {
            return stale(part) || (part.number == fresh.number && part.at < fresh.at + fresh.len &&
                                   fresh.at < part.at + part.len);
        });
    count = static_cast<std::size_t>(end - parts.begin());
}

bool append(const LatePart &fresh) noexcept {
    for (std::size_t i = 0; i < count; ++i) {
        LatePart &part = parts[i];
        if (part.number == fresh.number && part.file == fresh.file && part.tries == fresh.tries &&
            part.told == fresh.told && part.at + part.len == fresh.at &&
            part.offset + part.len == fresh.offset) {
            part.len += fresh.len;
            return true;
        }
    }
    if (count == kMostParts)
        return false;
    parts[count] = fresh;
    ++count;
    return true;
}

// The place for a file: that which it has, or one that no part needs any more.
bool place_of(const File &file, std::uint32_t &place) noexcept {
    std::array<bool, kMostFiles> needed{};
    needed[taken] = true;
    for (std::size_t i = 0; i < count; ++i)
        needed[parts[i].file] = true;
    std::uint32_t found = kMostFiles;
    for (std::uint32_t i = 0; i < kMostFiles; ++i) {
        if (files[i].device == file.device && files[i].inode == file.inode) {
            found = i;
            break;
        }
        if (!needed[i])
            found = i;
    }
    if (found == kMostFiles)
        return false;
    files[found] = file;
    place = found;
    return true;
}

bool identify(int fd, File &file) noexcept {
    char link[40];
    struct stat status {};
    (void)std::snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
    const ssize_t got = ::readlink(link, file.path, sizeof(file.path));
    if (got <= 0 || got == sizeof(file.path) || file.path[0] != '/' || ::fstat(fd, &status) != 0)
        return false;
    file.path[got] = '\0';
    file.device = status.st_dev;
    file.inode = status.st_ino;
    return true;
}

void put_back(const LatePart &part) noexcept {
    const Locked exclusive(local().late);
    if (!stale(part))
        (void)append(part);
    find_next();
}

} // namespace

void note_late(Block &block, int fd, off_t offset, const void *at, std::size_t len,
               bool told) noexcept {
    const std::size_t head = -reinterpret_cast<std::uintptr_t>(at) & (kPageSize - 1);
    if (offset < 0 || len < head + kPageSize)
        return;
    LatePart part;
    part.block = &block;
    part.number = block.number;
    part.at = static_cast<char *>(const_cast<void *>(at)) + head;
    part.len = (len - head) & ~(kPageSize - 1);
    part.offset = static_cast<std::uint64_t>(offset) + head;
    part.told = told;
    File file;
    const bool known = identify(fd, file);
    {
        const Locked exclusive(local().late);
        drop_before(part);
        const bool kept = known && place_of(file, part.file) && append(part);
        find_next();
        if (!kept)
            return;
    }
    notice_late();
}

bool take_untold(LatePart &part) noexcept {
    const Locked exclusive(local().late);
    for (std::size_t i = 0; i < count; ++i) {
        if (parts[i].told || stale(parts[i]))
            continue;
        parts[i].told = true;
        part = parts[i];
        taken = part.file;
        return true;
    }
    return false;
}

bool take_late(LatePart &part, std::uint64_t now_ns) noexcept {
    const Locked exclusive(local().late);
    for (std::size_t i = 0; i < count; ++i) {
        if (parts[i].due_ns > now_ns)
            continue;
        part = parts[i];
        taken = part.file;
        parts[i] = parts[--count];
        find_next();
        return true;
    }
    return false;
}

void put_back_late(LatePart part, std::uint64_t due_ns) noexcept {
    part.due_ns = due_ns;
    put_back(part);
}

void put_back_in_vain(LatePart part, std::uint64_t now_ns) noexcept {
    if (part.tries == kMostTries)
        return;
    part.due_ns = now_ns + (kFirstPauseNs << part.tries);
    ++part.tries;
    put_back(part);
}

int open_late(const LatePart &part) noexcept {
    if (descriptor_table() == 0)
        return -1; // to close it would give up the locks that the program has on the file
    File file;
    {
        const Locked exclusive(local().late);
        file = files[part.file];
    }
    // The name may mean another file by now, even a device: so it is looked at first.
    const int name = ::open(file.path, O_PATH | O_CLOEXEC);
    struct stat status {};
    int fd = -1;
    if (name >= 0 && ::fstat(name, &status) == 0 && S_ISREG(status.st_mode) &&
        status.st_dev == file.device && status.st_ino == file.inode) {
        char link[32];
        (void)std::snprintf(link, sizeof(link), "/proc/thread-self/fd/%d", name);
        fd = ::open(link, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    }
    if (name >= 0)
        ::close(name);
    return fd;
}

std::uint64_t next_late_ns() noexcept {
    return next.load();
}

void forget_late() noexcept {
    const Locked exclusive(local().late);
    count = 0;
    next = UINT64_MAX;
}

} // namespace upm::hook
