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
#include <dlfcn.h>
#include <elf.h>

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
};

Span span_of(std::uintptr_t base, const Elf64_Phdr &part) noexcept {
    return {.start = base + part.p_vaddr, .end = base + part.p_vaddr + part.p_memsz};
}

// The only word with that value in libc's variables; nullptr: there is none, or several.
std::uint64_t *find_variable(std::uint64_t value) noexcept {
    Dl_info info{};
    if (::dladdr(reinterpret_cast<const void *>(real().getenv), &info) == 0)
        return nullptr;
    const auto base = reinterpret_cast<std::uintptr_t>(info.dli_fbase);
    const auto *const head = reinterpret_cast<const Elf64_Ehdr *>(base);
    if (std::memcmp(head->e_ident, ELFMAG, SELFMAG) != 0 || head->e_type != ET_DYN)
        return nullptr;
    const auto *const parts = reinterpret_cast<const Elf64_Phdr *>(base + head->e_phoff);
    Span constant; // read-only by now
    for (std::size_t i = 0; i < head->e_phnum; ++i)
        if (parts[i].p_type == PT_GNU_RELRO)
            constant = span_of(base, parts[i]);
    std::uint64_t *found = nullptr;
    for (std::size_t i = 0; i < head->e_phnum; ++i) {
        if (parts[i].p_type != PT_LOAD || (parts[i].p_flags & PF_W) == 0)
            continue;
        const Span all = span_of(base, parts[i]);
        for (std::uintptr_t at = (all.start + 7) & ~std::uintptr_t{7}; at + 8 <= all.end; at += 8) {
            auto *const word = reinterpret_cast<std::uint64_t *>(at);
            if ((at >= constant.start && at < constant.end) || *word != value)
                continue;
            if (found != nullptr)
                return nullptr;
            found = word;
        }
    }
    return found;
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
