// SPDX-License-Identifier: MIT
//
// Which names in a folder of procfs are numbers: descriptors, threads. opendir(3) takes memory
// from the heap, and the hook's thread would get an arena of glibc's for that: 64 MiB of the
// address space, which a program may have a limit for.
#ifndef UPM_PRELOAD_NUMBERS_HPP
#define UPM_PRELOAD_NUMBERS_HPP

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <sys/syscall.h>
#include <system_error>
#include <unistd.h>

namespace upm::hook {

// struct linux_dirent64 of getdents64(2).
struct FolderEntry {
    std::uint64_t inode;
    std::int64_t next;
    std::uint16_t size;
    std::uint8_t type;
    char name[1];
};

// Calls visit(number) for each, until it returns false. False: it did, there are none, or it
// cannot be told.
template <class Visit>
bool all_numbers(int folder, Visit visit) noexcept {
    constexpr std::size_t kNameAt = offsetof(FolderEntry, name);
    alignas(FolderEntry) char buffer[4096];
    bool fine = true;
    bool any = false;
    long got = 0;
    while (fine && (got = ::syscall(SYS_getdents64, folder, buffer, sizeof(buffer))) > 0) {
        for (long at = 0; at < got && fine;) {
            FolderEntry entry{};
            std::memcpy(&entry, buffer + at, kNameAt);
            const char *const name = buffer + at + kNameAt;
            int number = -1;
            const auto [rest, error] = std::from_chars(name, name + std::strlen(name), number);
            if (error == std::errc() && *rest == '\0') {
                any = true;
                fine = visit(number);
            }
            at += entry.size;
        }
    }
    return fine && any && got == 0;
}

} // namespace upm::hook

#endif // UPM_PRELOAD_NUMBERS_HPP
