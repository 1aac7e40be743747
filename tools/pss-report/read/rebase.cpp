// SPDX-License-Identifier: MIT
#define XXH_INLINE_ALL // NOLINT(readability-identifier-naming): what xxhash.h asks for
#include "tools/pss-report/read/rebase.hpp"

#include <algorithm>
#include <cstring>
#include <string_view>
#include <xxhash.h>

namespace upm::tool::pss {

namespace {

constexpr std::uint64_t kInPage = 0xfff;
constexpr std::uint64_t kLow = std::uint64_t{4} << 30U;
constexpr unsigned kPageBits = 12; // glibc shifts by them, whatever the page size
constexpr unsigned kHalf = 32;
constexpr std::uint64_t kBlock = 16; // what free memory is aligned to
constexpr std::uint64_t kAll = ~std::uint64_t{0};

// What the place 0 of something with that name becomes: a large number, which nothing else
// in a page is by chance.
std::uint64_t base_of(std::string_view name) {
    return XXH3_64bits(name.data(), name.size());
}

} // namespace

Rebaser::Rebaser(const std::vector<MeasuredMapping> &mappings) {
    const std::uint64_t memory = base_of("");
    const MeasuredMapping *first = nullptr; // of the file that is looked at
    for (const MeasuredMapping &mapping : mappings) {
        if (mapping.name == "[vsyscall]")
            continue; // the same for all
        Part part{.start = mapping.start, .end = mapping.end, .shift = memory, .kept = kInPage};
        if (mapping.file()) {
            if (first == nullptr || first->inode != mapping.inode || first->name != mapping.name)
                first = &mapping;
            part.shift = base_of(first->name) - first->start;
            part.kept = kAll;
        } else if (mapping.name.starts_with('[') && !mapping.name.starts_with("[anon:")) {
            const bool down = mapping.name == "[stack]";
            part.shift = base_of(mapping.name) - (down ? mapping.end : mapping.start);
            part.kept = kAll;
        }
        parts_.push_back(part);
    }
}

const Rebaser::Part *Rebaser::find(std::uint64_t word) const {
    if (word < kLow && word % sizeof(word) != 0)
        return nullptr;
    const auto next = std::ranges::upper_bound(parts_, word, {}, &Part::start);
    if (next == parts_.begin() || word >= std::prev(next)->end)
        return nullptr;
    return &*std::prev(next);
}

bool Rebaser::has_upper_half(std::uint64_t word) const {
    const std::uint64_t half = word >> kHalf;
    const auto next = std::ranges::upper_bound(
        parts_, half, {}, [](const Part &part) { return part.start >> kHalf; });
    return half != 0 && next != parts_.begin() && half <= (std::prev(next)->end - 1) >> kHalf;
}

std::uint64_t Rebaser::rebased(std::uint64_t word, std::uint64_t page_number) const {
    if (const Part *const part = find(word))
        return (word & part->kept) + part->shift;
    if (word == page_number)
        return base_of("page");
    const std::uint64_t link = word ^ page_number;
    const Part *const next = word >= kLow && link % kBlock == 0 ? find(link) : nullptr;
    if (next != nullptr)
        return (link & next->kept) + next->shift + base_of("link");
    return has_upper_half(word) ? (word & (kLow - 1)) + base_of("half") : word;
}

bool Rebaser::rebase(char *page, std::size_t size, std::uint64_t address) const {
    if (parts_.empty())
        return false;
    bool found = false;
    const std::uint64_t lowest = std::min(parts_.front().start, address >> kPageBits);
    const std::uint64_t highest = parts_.back().end | ((std::uint64_t{1} << kHalf) - 1);
    for (std::size_t at = 0; at < size; at += sizeof(std::uint64_t)) {
        std::uint64_t word = 0;
        std::memcpy(&word, page + at, sizeof(word));
        if (word < lowest || word > highest)
            continue;
        const std::uint64_t alike = rebased(word, address >> kPageBits);
        found = found || alike != word;
        std::memcpy(page + at, &alike, sizeof(alike));
    }
    return found;
}

} // namespace upm::tool::pss
