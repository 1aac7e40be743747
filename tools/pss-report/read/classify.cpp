// SPDX-License-Identifier: MIT
//
// What a mapping is used for is only told by names and shapes that others chose: these are
// conventions.
#include "tools/pss-report/read/parse.hpp"

#include <algorithm>
#include <array>

namespace upm::tool::pss {

namespace {

constexpr std::uint64_t kMib = std::uint64_t{1} << 20U;
// Loaders put tensors into blocks of their own from glibc's mmap threshold on, which
// grows to 32 MiB at most; smaller ones are heaps of interpreters.
constexpr std::uint64_t kWeightsSize = 4 * kMib;
// glibc's HEAP_MAX_SIZE on 64 bits: the size and alignment of a thread's malloc arena.
constexpr std::uint64_t kArenaSize = 64 * kMib;
constexpr std::uint64_t kGuardMax = kMib;

bool is_anonymous(const MeasuredMapping &mapping) {
    return !mapping.file() &&
           (mapping.name.empty() || mapping.name.starts_with("[anon:") || mapping.name == " ");
}

// Accessible part and reserve of an arena are neighbours and fill it.
bool is_arena(const MeasuredMapping &mapping, const MeasuredMapping *next) {
    if (mapping.start % kArenaSize != 0 || mapping.size() > kArenaSize)
        return false;
    if (mapping.size() == kArenaSize)
        return false; // could as well be anything: full arenas are rare
    return next != nullptr && next->start == mapping.end && !next->accessible() && !next->file() &&
           next->end - mapping.start == kArenaSize;
}

// A thread's stack lies above its guard page.
bool is_thread_stack(const MeasuredMapping &mapping, const MeasuredMapping *before) {
    return before != nullptr && before->end == mapping.start && !before->accessible() &&
           !before->file() && before->size() <= kGuardMax && mapping.size() <= kArenaSize;
}

Kind kind_of_file(const MeasuredMapping &mapping) {
    if (mapping.flags.hugetlb || mapping.name.starts_with("/anon_hugepage"))
        return Kind::kHugetlb;
    if (mapping.store())
        return Kind::kStore;
    constexpr std::array<std::string_view, 4> kMemory = {"/memfd:", "/dev/shm/", "/SYSV",
                                                         "/dev/zero"};
    for (const std::string_view prefix : kMemory)
        if (mapping.name.starts_with(prefix))
            return Kind::kShmem;
    if (mapping.name.starts_with("/dev/"))
        return Kind::kSpecial;
    if (mapping.executable())
        return Kind::kText;
    if (!mapping.shared() && mapping.figures.anonymous != 0)
        return Kind::kFilePrivate;
    return Kind::kFile;
}

Kind kind_of(const MeasuredMapping &mapping, const MeasuredMapping *before,
             const MeasuredMapping *next) {
    if (mapping.no_memory())
        return Kind::kSpecial;
    if (mapping.file())
        return kind_of_file(mapping);
    if (mapping.shared() || mapping.name.starts_with("[anon_shmem:"))
        return Kind::kShmem;
    if (mapping.name == "[heap]")
        return Kind::kHeap;
    if (mapping.name.starts_with("[stack"))
        return Kind::kStack;
    if (mapping.name.starts_with("anon_inode:") || mapping.name.starts_with("/"))
        return Kind::kSpecial;
    if (!is_anonymous(mapping))
        return Kind::kAnon;
    if (is_arena(mapping, next))
        return Kind::kArena;
    if (is_thread_stack(mapping, before))
        return Kind::kStack;
    return mapping.size() >= kWeightsSize && mapping.accessible() ? Kind::kWeights : Kind::kAnon;
}

} // namespace

std::vector<Kind> classify(const std::vector<MeasuredMapping> &mappings) {
    std::vector<Kind> kinds;
    kinds.reserve(mappings.size());
    for (std::size_t i = 0; i < mappings.size(); ++i)
        kinds.push_back(kind_of(mappings[i], i == 0 ? nullptr : &mappings[i - 1],
                                i + 1 == mappings.size() ? nullptr : &mappings[i + 1]));
    return kinds;
}

} // namespace upm::tool::pss
