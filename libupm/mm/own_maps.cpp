// SPDX-License-Identifier: MIT
#include "libupm/mm/own_maps.hpp"

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace upm {

namespace {

constexpr unsigned long kQuery = _IOWR('f', 17, MapQuery); // PROCMAP_QUERY

} // namespace

int MapQuery::ask(int maps) noexcept {
    return ::ioctl(maps, kQuery, this) == 0 ? 0 : -errno;
}

int MapQuery::protection() const noexcept {
    return ((vma_flags & kReadable) != 0 ? PROT_READ : 0) |
           ((vma_flags & kWritable) != 0 ? PROT_WRITE : 0) |
           ((vma_flags & kExecutable) != 0 ? PROT_EXEC : 0);
}

OwnMaps::OwnMaps(const char *path) noexcept : path_(path), fd_(::open(path, O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0)
        error_ = -errno;
}

OwnMaps::~OwnMaps() {
    if (fd_ >= 0)
        ::close(fd_);
}

bool OwnMaps::find(std::uint64_t address, Vma &vma) const noexcept {
    MapQuery query;
    query.query_addr = address;
    const int ret = query.ask(fd_);
    if (ret == 0) {
        vma = {.start = query.vma_start,
               .end = query.vma_end,
               .flags = ((query.vma_flags & MapQuery::kShared) != 0 ? kVmaShared : 0U) |
                        (query.inode != 0 ? kVmaFile : 0U),
               .protection = query.protection()};
        return true;
    }
    if (ret == -ENOENT)
        return false;
    SmapsReader maps(path_);
    while (maps.next_header(vma) && vma.start <= address)
        if (address < vma.end)
            return true;
    return false;
}

bool OwnMaps::all_private(std::uint64_t start, std::uint64_t end, int protection) const noexcept {
    for (Vma vma; start < end; start = vma.end)
        if (!find(start, vma) || vma.protection != protection || (vma.flags & kVmaShared) != 0)
            return false;
    return true;
}

} // namespace upm
