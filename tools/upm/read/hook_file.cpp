// SPDX-License-Identifier: MIT
#include "tools/upm/read/hook_file.hpp"

#include "tools/common/text.hpp"

#include <cstdint>
#include <cstring>
#include <elf.h>

namespace upm::tool::cli {

namespace {

// Reads parts of a file that may be cut short, or hold anything.
class Elf {
  public:
    explicit Elf(std::string_view content) : content_(content) {}

    template <typename Part>
    [[nodiscard]] bool at(std::uint64_t offset, Part &part) const {
        if (offset > content_.size() || content_.size() - offset < sizeof(part))
            return false;
        std::memcpy(&part, content_.data() + offset, sizeof(part));
        return true;
    }
    [[nodiscard]] std::string text(std::uint64_t offset) const {
        if (offset >= content_.size())
            return "";
        const std::string_view rest = content_.substr(offset);
        return std::string(rest.substr(0, rest.find('\0')));
    }
    // Where in the file the bytes of an address are; the end of the file for none.
    [[nodiscard]] std::uint64_t offset_of(std::uint64_t address) const {
        for (const Elf64_Phdr &part : parts_)
            if (part.p_type == PT_LOAD && address >= part.p_vaddr &&
                address - part.p_vaddr < part.p_filesz)
                return part.p_offset + (address - part.p_vaddr);
        return content_.size();
    }
    bool read_parts() {
        Elf64_Ehdr head{};
        if (!at(0, head) || std::memcmp(head.e_ident, ELFMAG, SELFMAG) != 0 ||
            head.e_ident[EI_CLASS] != ELFCLASS64 || head.e_type != ET_DYN)
            return false;
        for (unsigned i = 0; i < head.e_phnum; ++i) {
            Elf64_Phdr part{};
            if (!at(head.e_phoff + std::uint64_t{i} * head.e_phentsize, part))
                return false;
            parts_.push_back(part);
        }
        return true;
    }
    [[nodiscard]] const std::vector<Elf64_Phdr> &parts() const { return parts_; }

  private:
    std::string_view content_;
    std::vector<Elf64_Phdr> parts_;
};

struct Dynamic {
    std::vector<std::uint64_t> needed; // offsets into names
    std::uint64_t names = 0;           // address
    std::uint64_t versions = 0;        // address
};

std::optional<Dynamic> read_dynamic(const Elf &elf) {
    std::optional<Dynamic> found;
    for (const Elf64_Phdr &part : elf.parts()) {
        if (part.p_type != PT_DYNAMIC)
            continue;
        found.emplace();
        Elf64_Dyn entry{};
        for (std::uint64_t at = part.p_offset; elf.at(at, entry) && entry.d_tag != DT_NULL;
             at += sizeof(entry)) {
            if (entry.d_tag == DT_NEEDED)
                found->needed.push_back(entry.d_un.d_val);
            else if (entry.d_tag == DT_STRTAB)
                found->names = entry.d_un.d_ptr;
            else if (entry.d_tag == DT_VERNEED)
                found->versions = entry.d_un.d_ptr;
        }
    }
    return found;
}

// Two lists in one another, each entry with the distance to the next one.
std::string newest_glibc(const Elf &elf, const Dynamic &dynamic, std::uint64_t names) {
    constexpr std::string_view kPrefix = "GLIBC_";
    constexpr int kMost = 1000; // a list that leads back to itself ends as well
    std::string newest;
    int left = kMost;
    Elf64_Verneed file{};
    for (std::uint64_t at = elf.offset_of(dynamic.versions); elf.at(at, file) && left > 0;) {
        Elf64_Vernaux version{};
        for (std::uint64_t inner = at + file.vn_aux; elf.at(inner, version) && --left > 0;
             inner += version.vna_next) {
            const std::string name = elf.text(names + version.vna_name);
            if (name.starts_with(kPrefix) && older_version(newest, name.substr(kPrefix.size())))
                newest = name.substr(kPrefix.size());
            if (version.vna_next == 0)
                break;
        }
        if (file.vn_next == 0 || --left <= 0)
            break;
        at += file.vn_next;
    }
    return newest;
}

} // namespace

bool older_version(std::string_view left, std::string_view right) {
    const std::vector<std::string> one = split(left, '.');
    const std::vector<std::string> other = split(right, '.');
    for (std::size_t i = 0; i < std::max(one.size(), other.size()); ++i) {
        const auto number = [i](const std::vector<std::string> &parts) {
            return i < parts.size() ? parse_integer<unsigned>(parts[i]).value_or(0) : 0U;
        };
        if (number(one) != number(other))
            return number(one) < number(other);
    }
    return false;
}

std::optional<HookFile> parse_hook_file(std::string_view content) {
    Elf elf(content);
    if (!elf.read_parts())
        return std::nullopt;
    const std::optional<Dynamic> dynamic = read_dynamic(elf);
    if (!dynamic)
        return std::nullopt;
    const std::uint64_t names = elf.offset_of(dynamic->names);
    HookFile hook;
    for (const std::uint64_t offset : dynamic->needed)
        hook.libraries.push_back(elf.text(names + offset));
    if (dynamic->versions != 0)
        hook.glibc = newest_glibc(elf, *dynamic, names);
    return hook;
}

} // namespace upm::tool::cli
