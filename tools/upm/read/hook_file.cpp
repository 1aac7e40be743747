// SPDX-License-Identifier: MIT
#include "tools/upm/read/hook_file.hpp"

#include "tools/common/text.hpp"
#include "tools/upm/read/elf.hpp"

#include <algorithm>
#include <cstdint>

namespace upm::tool::cli {

namespace {

// Two lists in one another, each entry with the distance to the next one.
std::string newest_glibc(const Elf &elf, std::uint64_t versions, std::uint64_t names) {
    constexpr std::string_view kPrefix = "GLIBC_";
    constexpr int kMost = 1000; // a list that leads back to itself ends as well
    std::string newest;
    int left = kMost;
    Elf64_Verneed file{};
    for (std::uint64_t at = versions; elf.at(at, file) && left > 0;) {
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
    const Elf elf = Elf::of_text(content);
    const std::vector<Elf64_Dyn> dynamic = elf.dynamic();
    if (elf.head().e_type != ET_DYN || elf.parts().size() != elf.head().e_phnum || dynamic.empty())
        return std::nullopt;
    std::optional<std::uint64_t> names;
    std::optional<std::uint64_t> versions;
    for (const Elf64_Dyn &entry : dynamic) {
        if (entry.d_tag == DT_STRTAB)
            names = elf.offset_of(entry.d_un.d_ptr);
        else if (entry.d_tag == DT_VERNEED)
            versions = elf.offset_of(entry.d_un.d_ptr);
    }
    HookFile hook;
    for (const Elf64_Dyn &entry : dynamic)
        if (entry.d_tag == DT_NEEDED)
            hook.libraries.push_back(names ? elf.text(*names + entry.d_un.d_val) : "");
    if (names && versions)
        hook.glibc = newest_glibc(elf, *versions, *names);
    return hook;
}

} // namespace upm::tool::cli
