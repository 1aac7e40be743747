// SPDX-License-Identifier: MIT
#include "tools/upm/read/elf.hpp"

#include <algorithm>
#include <cstring>
#include <unistd.h>
#include <utility>

namespace upm::tool::cli {

Elf::Elf(Read read) : read_(std::move(read)) {
    valid_ = at(0, head_) && std::memcmp(head_.e_ident, ELFMAG, SELFMAG) == 0;
    if (!valid_)
        head_ = {};
    if (!valid_ || !has_64_bits())
        return;
    // The kernel takes no other size.
    if (head_.e_phentsize == sizeof(Elf64_Phdr))
        parts_ = table<Elf64_Phdr>(head_.e_phoff, head_.e_phnum);
}

Elf Elf::of_file(const Descriptor &file) {
    return Elf([fd = file.get()](std::uint64_t offset, char *into, std::size_t size) {
        const ssize_t got = ::pread(fd, into, size, static_cast<off_t>(offset));
        return static_cast<std::size_t>(std::max<ssize_t>(got, 0));
    });
}

Elf Elf::of_text(std::string_view content) {
    return Elf([content](std::uint64_t offset, char *into, std::size_t size) {
        return offset > content.size() ? 0 : content.substr(offset).copy(into, size);
    });
}

std::vector<Elf64_Dyn> Elf::dynamic() const {
    constexpr std::uint64_t kMost = 4096; // entries; programs have some dozens
    std::vector<Elf64_Dyn> entries;
    for (const Elf64_Phdr &part : parts_) {
        if (part.p_type != PT_DYNAMIC)
            continue;
        for (const Elf64_Dyn &entry :
             table<Elf64_Dyn>(part.p_offset, std::min(part.p_filesz / sizeof(Elf64_Dyn), kMost))) {
            if (entry.d_tag == DT_NULL)
                break;
            entries.push_back(entry);
        }
    }
    return entries;
}

std::optional<std::uint64_t> Elf::offset_of(std::uint64_t address) const {
    for (const Elf64_Phdr &part : parts_)
        if (part.p_type == PT_LOAD && address >= part.p_vaddr &&
            address - part.p_vaddr < part.p_filesz)
            return part.p_offset + (address - part.p_vaddr);
    return std::nullopt;
}

std::string Elf::bytes(std::uint64_t offset, std::size_t size) const {
    std::string found(size, '\0');
    found.resize(read_(offset, found.data(), size));
    return found;
}

std::string Elf::text(std::uint64_t offset) const {
    constexpr std::size_t kMost = 4096;
    std::string found = bytes(offset, kMost);
    found.resize(std::min(found.find('\0'), found.size()));
    return found;
}

} // namespace upm::tool::cli
