// SPDX-License-Identifier: MIT
//
// ELF files of 64 bits, of which the bytes may be cut short, or anything.
#ifndef UPM_TOOLS_UPM_READ_ELF_HPP
#define UPM_TOOLS_UPM_READ_ELF_HPP

#include "tools/common/descriptor.hpp"

#include <cstddef>
#include <cstdint>
#include <elf.h>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace upm::tool::cli {

class Elf {
  public:
    // Copies the bytes from `offset` on, as many as there are of `size`; returns how many.
    using Read = std::function<std::size_t(std::uint64_t offset, char *into, std::size_t size)>;

    explicit Elf(Read read);
    // They must stay as long as this does.
    static Elf of_file(const Descriptor &file);
    static Elf of_text(std::string_view content);

    // Returns false if it does not begin as an ELF file; then all else is empty.
    [[nodiscard]] bool valid() const { return valid_; }
    [[nodiscard]] bool has_64_bits() const { return head_.e_ident[EI_CLASS] == ELFCLASS64; }
    [[nodiscard]] const Elf64_Ehdr &head() const { return head_; }
    // Program headers; empty if it has not 64 bits. Those that are cut off are missing.
    [[nodiscard]] const std::vector<Elf64_Phdr> &parts() const { return parts_; }
    // Entries of the dynamic section up to DT_NULL, 4096 at most; empty: it is linked
    // statically.
    [[nodiscard]] std::vector<Elf64_Dyn> dynamic() const;
    // Where in the file the bytes are that have that address in memory.
    [[nodiscard]] std::optional<std::uint64_t> offset_of(std::uint64_t address) const;

    // What there is of so many bytes.
    [[nodiscard]] std::string bytes(std::uint64_t offset, std::size_t size) const;
    // Up to a zero, 4096 bytes at most.
    [[nodiscard]] std::string text(std::uint64_t offset) const;
    // Returns false if it is cut off.
    template <typename Part>
    [[nodiscard]] bool at(std::uint64_t offset, Part &part) const {
        return read_(offset, reinterpret_cast<char *>(&part), sizeof(part)) == sizeof(part);
    }

  private:
    // So many parts in a row, read at once; those that are cut off are missing.
    template <typename Part>
    [[nodiscard]] std::vector<Part> table(std::uint64_t offset, std::size_t count) const {
        std::vector<Part> parts(count);
        const std::size_t got =
            read_(offset, reinterpret_cast<char *>(parts.data()), count * sizeof(Part));
        parts.resize(got / sizeof(Part));
        return parts;
    }

    Read read_;
    bool valid_ = false;
    Elf64_Ehdr head_{};
    std::vector<Elf64_Phdr> parts_;
};

} // namespace upm::tool::cli

#endif // UPM_TOOLS_UPM_READ_ELF_HPP
