// SPDX-License-Identifier: MIT
#include "tests/support/memory.hpp"

#include "tests/support/support.hpp"

#include <alloca.h>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <malloc.h>
#include <stdexcept>
#include <sys/mman.h>
#include <unistd.h>

namespace upm::test {

namespace {

constexpr std::size_t kPages = 64;
constexpr std::size_t kHugeSize = 2UL << 20;

using Use = std::function<void(Memory &)>;
using Skip = std::optional<std::string>;

void fill(char *data, std::size_t pages) {
    for (std::size_t i = 0; i < pages; ++i)
        std::memcpy(data + i * page_size(), expected_page(i).data(), page_size());
}

void *map(std::size_t size, int flags, int fd = -1) {
    void *const mapped = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | flags, fd, 0);
    if (mapped == MAP_FAILED)
        throw std::runtime_error(std::string("mmap: ") + std::strerror(errno));
    return mapped;
}

Skip with_small_pages(Kind kind, const Use &use) {
    const std::size_t size = kPages * page_size();
    auto *const data = static_cast<char *>(map(size, MAP_ANONYMOUS));
    // Fails where the kernel has no huge pages, which is as good.
    (void)::madvise(data, size, MADV_NOHUGEPAGE);
    fill(data, kPages);
    if (kind == Kind::kReadOnly)
        (void)::mprotect(data, size, PROT_READ);
    Memory memory{.kind = kind, .data = data, .pages = kPages, .file = ""};
    use(memory);
    (void)::munmap(data, size);
    return std::nullopt;
}

// From smaps: a huge page is there only if the kernel had one to give.
bool has_huge_page(const char *data) {
    const std::string smaps = read_file("/proc/self/smaps");
    char start[32];
    (void)std::snprintf(start, sizeof(start), "%lx-", reinterpret_cast<unsigned long>(data));
    const std::size_t entry = smaps.find(start);
    const std::size_t line = smaps.find("AnonHugePages:", entry);
    if (entry == std::string::npos || line == std::string::npos)
        return false;
    return std::strtoul(smaps.c_str() + line + std::strlen("AnonHugePages:"), nullptr, 10) > 0;
}

Skip with_huge_pages(Kind kind, const Use &use) {
    constexpr std::size_t kReserved = 3 * kHugeSize;
    auto *const reserved = static_cast<char *>(map(kReserved, MAP_ANONYMOUS | MAP_NORESERVE));
    const auto address = reinterpret_cast<std::uintptr_t>(reserved);
    char *const data = reserved + ((kHugeSize - address % kHugeSize) % kHugeSize);
    // Mappings of their own, so that the test can find them in smaps.
    Skip skip;
    if (::madvise(data, kHugeSize, MADV_HUGEPAGE) != 0) {
        skip = "this kernel has no transparent huge pages";
    } else {
        fill(data, kHugeSize / page_size());
        if (has_huge_page(data)) {
            std::size_t pages = kHugeSize / page_size();
            if (kind == Kind::kTornHuge) {
                pages -= kPages;
                (void)::munmap(data + pages * page_size(), kPages * page_size());
            }
            Memory memory{.kind = kind, .data = data, .pages = pages, .file = ""};
            use(memory);
        } else {
            skip = "the kernel gave no transparent huge page";
        }
    }
    (void)::munmap(reserved, kReserved);
    return skip;
}

Skip with_file(Kind kind, const Use &use) {
    const TempDir dir;
    const std::string path = dir.path() + "/file";
    std::string content;
    for (std::size_t i = 0; i < kPages; ++i) {
        const std::vector<char> page = expected_page(i);
        // A dirty mapping differs from its file, so that mixing them up shows.
        content += kind == Kind::kFileClean ? std::string(page.data(), page.size())
                                            : std::string(page_size(), 'f');
    }
    dir.write("file", content);
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    auto *const data = static_cast<char *>(map(kPages * page_size(), MAP_POPULATE, fd));
    (void)::close(fd);
    if (kind == Kind::kFileDirty)
        fill(data, kPages);
    Memory memory{.kind = kind, .data = data, .pages = kPages, .file = path};
    use(memory);
    (void)::munmap(data, kPages * page_size());
    return read_file(path) == content ? std::nullopt
                                      : throw std::runtime_error("the file itself has changed");
}

// Not inlined: the memory must stay a part of this frame while it is used.
[[gnu::noinline]] Skip with_stack(const Use &use) {
    auto *const raw = static_cast<char *>(alloca((kPages + 1) * page_size()));
    const auto address = reinterpret_cast<std::uintptr_t>(raw);
    char *const data = raw + (page_size() - address % page_size()) % page_size();
    fill(data, kPages);
    Memory memory{.kind = Kind::kStack, .data = data, .pages = kPages, .file = ""};
    use(memory);
    return std::nullopt;
}

Skip with_heap(const Use &use) {
    // Else a block of this size would be a mapping of its own.
    (void)::mallopt(M_MMAP_THRESHOLD, 1 << 30);
    void *const block = std::aligned_alloc(page_size(), kPages * page_size());
    if (block == nullptr)
        throw std::bad_alloc();
    auto *const data = static_cast<char *>(block);
    fill(data, kPages);
    Memory memory{.kind = Kind::kHeap, .data = data, .pages = kPages, .file = ""};
    use(memory);
    std::free(block);
    return std::nullopt;
}

} // namespace

const char *kind_name(Kind kind) {
    switch (kind) {
    case Kind::kSmallPages:
        return "SmallPages";
    case Kind::kHugePages:
        return "HugePages";
    case Kind::kTornHuge:
        return "TornHuge";
    case Kind::kFileClean:
        return "FileClean";
    case Kind::kFileDirty:
        return "FileDirty";
    case Kind::kStack:
        return "Stack";
    case Kind::kHeap:
        return "Heap";
    case Kind::kReadOnly:
        return "ReadOnly";
    }
    return "?";
}

std::size_t Memory::size() const {
    return pages * page_size();
}

char *Memory::page(std::size_t index) const {
    return data + index * page_size();
}

void Memory::make_writable() const {
    if (kind == Kind::kReadOnly && ::mprotect(data, size(), PROT_READ | PROT_WRITE) != 0)
        throw std::runtime_error("mprotect");
}

std::string Memory::difference() const {
    for (std::size_t i = 0; i < pages; ++i)
        if (std::memcmp(page(i), expected_page(i).data(), page_size()) != 0)
            return "page " + std::to_string(i) + " has changed";
    return "";
}

// Page i of four: zero; equal to all others of its sort; unique; as the one before
// but for its last byte, which a hash of the beginning would take for equal.
std::vector<char> expected_page(std::size_t index) {
    std::vector<char> page(page_size(), '\0');
    const std::size_t sort = index % 4;
    if (sort == 1)
        page.assign(page_size(), 'A');
    if (sort >= 2) {
        std::uint64_t state = (index - sort) * 0x9e3779b97f4a7c15ULL + 1;
        for (char &byte : page) {
            state = state * 6364136223846793005ULL + 1442695040888963407ULL;
            byte = static_cast<char>(state >> 56U);
        }
    }
    if (sort == 3)
        page.back() = static_cast<char>(page.back() + 1);
    return page;
}

std::optional<std::string> with_memory(Kind kind, const std::function<void(Memory &)> &use) {
    switch (kind) {
    case Kind::kHugePages:
    case Kind::kTornHuge:
        return with_huge_pages(kind, use);
    case Kind::kFileClean:
    case Kind::kFileDirty:
        return with_file(kind, use);
    case Kind::kStack:
        return with_stack(use);
    case Kind::kHeap:
        return with_heap(use);
    case Kind::kSmallPages:
    case Kind::kReadOnly:
        return with_small_pages(kind, use);
    }
    return "unknown kind";
}

std::optional<std::vector<std::uint64_t>> frames(const Memory &memory) {
    constexpr std::uint64_t kFrame = (1ULL << 55) - 1; // bits of a pagemap entry
    std::vector<std::uint64_t> entries(memory.pages);
    const int fd = ::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return std::nullopt;
    const auto first = reinterpret_cast<std::uintptr_t>(memory.data) / page_size();
    const ssize_t got = ::pread(fd, entries.data(), entries.size() * sizeof(entries[0]),
                                static_cast<off_t>(first * sizeof(entries[0])));
    (void)::close(fd);
    if (got != static_cast<ssize_t>(entries.size() * sizeof(entries[0])))
        return std::nullopt;
    bool any = false;
    for (std::uint64_t &entry : entries) {
        entry &= kFrame;
        any = any || entry != 0;
    }
    // Without CAP_SYS_ADMIN the kernel shows zeros.
    return any ? std::optional(entries) : std::nullopt;
}

} // namespace upm::test
