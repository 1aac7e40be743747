// SPDX-License-Identifier: MIT
//
// The number (tcache_key in malloc/malloc.c) has no name outside of libc. It is found by its
// value: what a freed block is marked with stands in libc's own variables, once. Whether it
// was the right place the next freed block tells.
#include "preload/free_mark.hpp"

#include "preload/any_libc.h"
#include "preload/real.hpp"

#include <cstddef>
#include <cstring>
#include <elf.h>
#include <link.h>
#include <span>

namespace upm::hook {

namespace {

// The mark of a block that has just been freed: its second word.
std::uint64_t mark_of_freed() noexcept {
    constexpr std::size_t kSize = 24; // the smallest
    void *block = real().malloc(kSize);
    if (block == nullptr)
        return 0;
    std::memset(block, 0, kSize);
    const auto *const words = static_cast<volatile const std::uint64_t *>(block);
    asm volatile("" : "+r"(block)); // the compiler forgets what it knows of it
    real().free(block);
    return words[1];
}

struct Span {
    std::uintptr_t start = 0;
    std::uintptr_t end = 0;

    [[nodiscard]] bool has(std::uintptr_t at) const noexcept { return at >= start && at < end; }
};

Span span_of(const dl_phdr_info &object, const Elf64_Phdr &part) noexcept {
    const std::uintptr_t start = object.dlpi_addr + part.p_vaddr;
    return {.start = start, .end = start + part.p_memsz};
}

// The part of an object at that address, nullptr if it is another's.
const Elf64_Phdr *part_at(const dl_phdr_info &object, std::uintptr_t at) noexcept {
    for (std::size_t i = 0; i < object.dlpi_phnum; ++i)
        if (const Elf64_Phdr &part = object.dlpi_phdr[i];
            part.p_type == PT_LOAD && span_of(object, part).has(at))
            return &part;
    return nullptr;
}

struct Search {
    std::uint64_t value = 0;
    std::uintptr_t inside = 0;      // of the library that it is in
    std::uint64_t *found = nullptr; // the only word with that value
};

// Looks at the variables of one part, but for those that are read-only by now. Returns false
// if there are several such words.
bool look_at(Span part, Span constant, Search &search) noexcept {
    for (std::uintptr_t at = (part.start + 7) & ~std::uintptr_t{7}; at + 8 <= part.end; at += 8) {
        auto *const word = reinterpret_cast<std::uint64_t *>(at);
        if (constant.has(at) || *word != search.value)
            continue;
        if (search.found != nullptr)
            return false;
        search.found = word;
    }
    return true;
}

// Called for each library until it returns something else than 0.
int look_at_object(dl_phdr_info *object, std::size_t /*size*/, void *search_for) noexcept {
    Search &search = *static_cast<Search *>(search_for);
    if (part_at(*object, search.inside) == nullptr)
        return 0;
    const std::span<const Elf64_Phdr> parts(object->dlpi_phdr, object->dlpi_phnum);
    Span constant;
    for (const Elf64_Phdr &part : parts)
        if (part.p_type == PT_GNU_RELRO)
            constant = span_of(*object, part);
    for (const Elf64_Phdr &part : parts)
        if (part.p_type == PT_LOAD && (part.p_flags & PF_W) != 0 &&
            !look_at(span_of(*object, part), constant, search)) {
            search.found = nullptr;
            break;
        }
    return 1;
}

// The only word with that value in libc's variables; nullptr: there is none, or several.
std::uint64_t *find_variable(std::uint64_t value) noexcept {
    Search search{.value = value,
                  .inside = reinterpret_cast<std::uintptr_t>(real().getenv),
                  .found = nullptr};
    (void)::dl_iterate_phdr(look_at_object, &search);
    return search.found;
}

} // namespace

void set_free_mark(std::uint64_t mark) noexcept {
    if (upm_hook_libc_suffices() == 0)
        return;
    constexpr std::uint64_t kLeast = std::uint64_t{1} << 48U; // smaller ones may be addresses
    const std::uint64_t before = mark_of_freed();
    std::uint64_t *const variable = before >= kLeast ? find_variable(before) : nullptr;
    if (variable == nullptr)
        return;
    *variable = mark;
    if (mark_of_freed() != mark)
        *variable = before;
}

} // namespace upm::hook
