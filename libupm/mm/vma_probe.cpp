// SPDX-License-Identifier: MIT
//
// Finds out that a mapping is an ordinary one, without /proc/self/smaps. No other
// file tells the flags of a mapping. But the kernel makes one mapping of two that lie
// side by side only if all their flags, their memory policy and their userfaultfd are
// the same. So a page is mapped beside the one in question, in address space that is
// free, and unmapped at once: if both became one, it has the flags of a fresh mapping.
#include "libupm/mm/vma_reader.hpp"

#include "libupm/base/system.hpp"
#include "libupm/mm/own_maps.hpp"

#include <cerrno>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace upm {

namespace {

// The mapping of an address, and whether it is anonymous, private, of small pages and
// without a name.
bool query(int maps, std::uint64_t address, MapQuery &found) noexcept {
    char name[64];
    found = {};
    found.query_addr = address;
    found.vma_name_size = sizeof(name);
    found.vma_name_addr = reinterpret_cast<std::uint64_t>(name);
    return found.ask(maps) == 0 && found.inode == 0 && found.dev_major == 0 &&
           found.dev_minor == 0 && found.vma_name_size == 0 && found.vma_page_size == page_size() &&
           (found.vma_flags & MapQuery::kShared) == 0;
}

// Whether a fresh mapping at `beside` becomes one with that of `address`.
bool joins(int maps, std::uint64_t address, std::uint64_t beside, int protection,
           int flags) noexcept {
    void *const wanted = reinterpret_cast<void *>(beside);
    void *const made = ::mmap(wanted, page_size(), protection,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE | flags, -1, 0);
    if (made == MAP_FAILED)
        return false;
    bool joined = false;
    constexpr int kAsItIs = -1;
    for (const int advice : {kAsItIs, MADV_HUGEPAGE, MADV_NOHUGEPAGE}) {
        // Once joined, advice would change the program's own mapping.
        if (advice != kAsItIs && ::madvise(made, page_size(), advice) != 0)
            break;
        MapQuery found;
        joined = query(maps, address, found) && found.vma_start <= beside && beside < found.vma_end;
        if (joined)
            break;
    }
    (void)::munmap(made, page_size());
    return joined && made == wanted;
}

// On either side; wishes for huge pages and for no reservation make no difference.
bool joins(int maps, std::uint64_t address, const MapQuery &found) noexcept {
    for (const std::uint64_t beside : {found.vma_end, found.vma_start - page_size()})
        for (const int flags : {0, MAP_NORESERVE})
            if (joins(maps, address, beside, found.protection(), flags))
                return true;
    return false;
}

} // namespace

bool find_plain_vma(std::uint64_t start, std::uint64_t end, Vma &vma) noexcept {
    const int maps = ::open(own_maps(), O_RDONLY | O_CLOEXEC);
    if (maps < 0)
        return false;
    MapQuery found;
    bool plain = query(maps, start, found) && found.vma_end >= end;
    plain = plain && joins(maps, start, found);
    ::close(maps);
    // Fresh mappings may be locked: mlockall(MCL_FUTURE). MS_INVALIDATE refuses those.
    plain = plain &&
            ::msync(reinterpret_cast<void *>(start), end - start, MS_ASYNC | MS_INVALIDATE) == 0;
    if (plain)
        vma = {.start = found.vma_start,
               .end = found.vma_end,
               .flags = 0,
               .protection = found.protection()};
    return plain;
}

} // namespace upm
