// SPDX-License-Identifier: MIT
//
// A mapping with merged pages is an ordinary mapping: each system call on it, and on the
// rest of it that was never merged, has the outcome that it has on memory that no advise
// ever touched.
#include "tests/kmod/support/actor.hpp"
#include "tests/kmod/support/source.hpp"
#include "tests/kmod/support/uffd.hpp"

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <ostream>
#include <string>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

namespace upm::test {

namespace {

constexpr std::size_t kPages = 16;
constexpr std::size_t kLen = kPages * kPage;

// What a call returned, and what can be seen afterwards.
struct Outcome {
    int error = 0;
    std::uint64_t seen = 0;

    bool operator==(const Outcome &other) const = default;
};

std::ostream &operator<<(std::ostream &out, const Outcome &o) {
    return out << "error " << o.error << ", then " << o.seen;
}

int error_of(long result) {
    return result < 0 ? errno : 0;
}

// A mapping of two parts: the first is to be merged, the second is not. A page of no
// access on both sides keeps it apart from others.
class Two {
  public:
    Two() : all_(2 * kLen + 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS) {
        must(::mprotect(base(), 2 * kLen, PROT_READ | PROT_WRITE), "mprotect");
        must(::madvise(base(), 2 * kLen, MADV_NOHUGEPAGE), "MADV_NOHUGEPAGE");
        const Pattern pattern{Content::kDistinct, fresh_seed()};
        for (std::size_t i = 0; i < 2 * kPages; i++)
            pattern.fill(i, base() + i * kPage);
    }
    [[nodiscard]] std::byte *base() const { return all_.base() + kPage; }

  private:
    Mapping all_;
};

std::string flags_of(const std::byte *at) {
    std::string line;
    const std::string text = read_file("/proc/self/smaps");
    const auto address = reinterpret_cast<std::uintptr_t>(at);
    for (const MapEntry &entry : maps_of(0)) {
        if (address < entry.start || address >= entry.end)
            continue;
        std::array<char, 32> start{};
        std::snprintf(start.data(), start.size(), "%08lx-",
                      static_cast<unsigned long>(entry.start));
        const std::size_t from = text.find("VmFlags:", text.find(start.data()));
        line = text.substr(from, text.find('\n', from) - from) + " ";
    }
    return line;
}

struct Operation {
    const char *name;
    // On the part at `part` of the mapping at `base`.
    Outcome (*run)(std::byte *base, std::byte *part);
    // What comes before the merge, or nullptr.
    void (*before)(std::byte *base) = nullptr;
};

std::ostream &operator<<(std::ostream &out, const Operation &operation) {
    return out << operation.name;
}

std::uint64_t locked_kib() {
    const std::string status = read_file("/proc/self/status");
    return std::stoull(status.substr(status.find("VmLck:") + 6));
}

void lock_all(std::byte *base) {
    must(::mlock(base, 2 * kLen), "mlock");
}

Outcome run_mlock(std::byte * /*base*/, std::byte *part) {
    const int error = error_of(::mlock(part, kLen));
    return {.error = error, .seen = usage_of(0, part, kLen).locked};
}
Outcome run_munlock(std::byte *base, std::byte * /*part*/) {
    const int error = error_of(::munlock(base, 2 * kLen));
    return {.error = error, .seen = locked_kib()};
}
Outcome run_grow(std::byte *base, std::byte * /*part*/) {
    must(::munmap(base + 2 * kLen, kPage), "munmap");
    void *grown = ::mremap(base, 2 * kLen, 2 * kLen + kPage, 0);
    const int error = grown == MAP_FAILED ? errno : 0;
    return {.error = error, .seen = usage_of(0, base, 2 * kLen + kPage).size};
}
Outcome run_mergeable(std::byte * /*base*/, std::byte *part) {
    const int error = error_of(::madvise(part, kLen, MADV_MERGEABLE));
    return {.error = error, .seen = flags_of(part).find(" mg ") != std::string::npos};
}
Outcome run_dump(std::byte * /*base*/, std::byte *part) {
    must(::madvise(part, kLen, MADV_DONTDUMP), "MADV_DONTDUMP");
    const int error = error_of(::madvise(part, kLen, MADV_DODUMP));
    return {.error = error, .seen = flags_of(part).find(" dd ") != std::string::npos};
}
Outcome run_uffd(std::byte * /*base*/, std::byte *part) {
    const Uffd uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
    if (!uffd)
        return {.error = ENOSYS};
    const int error =
        uffd.watch(part, kLen, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP);
    uffdio_writeprotect protect{};
    protect.range = {.start = reinterpret_cast<std::uintptr_t>(part), .len = kLen};
    protect.mode = UFFDIO_WRITEPROTECT_MODE_WP;
    return {.error = error,
            .seen = static_cast<std::uint64_t>(
                error_of(::ioctl(uffd.get(), UFFDIO_WRITEPROTECT, &protect)))};
}
// Page by page read-only and back: the mappings join again.
Outcome run_join(std::byte *base, std::byte *part) {
    int error = 0;
    for (std::size_t i = 0; i < kPages && error == 0; i += 2)
        for (const int protection : {PROT_READ, PROT_READ | PROT_WRITE})
            error = error_of(::mprotect(part + i * kPage, kPage, protection));
    return {.error = error, .seen = usage_of(0, base, 2 * kLen).mappings};
}
Outcome run_mincore(std::byte * /*base*/, std::byte *part) {
    std::array<unsigned char, kPages> resident{};
    const int error = error_of(::mincore(part, kLen, resident.data()));
    std::uint64_t seen = 0;
    for (const unsigned char page : resident)
        seen += page & 1U;
    return {.error = error, .seen = seen};
}
Outcome run_populate(std::byte * /*base*/, std::byte *part) {
    const int error = error_of(::madvise(part, kLen, MADV_POPULATE_WRITE));
    return {.error = error, .seen = usage_of(0, part, kLen).rss};
}
Outcome run_vm_write(std::byte * /*base*/, std::byte *part) {
    char byte = 5;
    iovec from{.iov_base = &byte, .iov_len = 1};
    iovec to{.iov_base = part, .iov_len = 1};
    const int error = error_of(::process_vm_writev(::getpid(), &from, 1, &to, 1, 0));
    return {.error = error, .seen = static_cast<std::uint64_t>(*part)};
}

constexpr Operation kOperations[] = {
    {.name = "mlock", .run = run_mlock},
    {.name = "munlock", .run = run_munlock, .before = lock_all},
    {.name = "grow", .run = run_grow},
    {.name = "mergeable", .run = run_mergeable},
    {.name = "dodump", .run = run_dump},
    {.name = "userfaultfd", .run = run_uffd},
    {.name = "join", .run = run_join},
    {.name = "mincore", .run = run_mincore},
    {.name = "populate", .run = run_populate},
    {.name = "vm_writev", .run = run_vm_write},
};

// A kernel with CONFIG_DEBUG_VM: see merge.c.
bool flag_stays() {
    const Two memory;
    EXPECT_EQ(Device().advise(memory.base(), kLen).done(), kPages);
    return flags_of(memory.base()).find(" mm ") != std::string::npos;
}

bool debug_kernel() {
    return read_file("/proc/version").find("debug") != std::string::npos;
}

class Plain : public KmodTest, public testing::WithParamInterface<Operation> {
  protected:
    void SetUp() override {
        KmodTest::SetUp();
        if (flag_stays()) {
            ASSERT_TRUE(debug_kernel()) << "VM_MIXEDMAP has stayed on";
            GTEST_SKIP() << "the kernel has CONFIG_DEBUG_VM";
        }
    }
};

TEST_P(Plain, SameOutcome) {
    const auto run = +[](const Operation *operation, bool merged, std::size_t part) {
        const Two memory;
        if (operation->before != nullptr)
            operation->before(memory.base());
        if (merged) {
            EXPECT_EQ(Device().advise(memory.base(), kLen).done(), kPages);
        }
        return operation->run(memory.base(), memory.base() + part * kLen);
    };
    const Operation operation = GetParam();
    for (const std::size_t part : {std::size_t{0}, std::size_t{1}}) {
        Process plain;
        Process merged;
        EXPECT_EQ(merged.call(run, &operation, true, part),
                  plain.call(run, &operation, false, part))
            << (part == 0 ? "the merged part" : "the other part");
    }
}

INSTANTIATE_TEST_SUITE_P(Operations, Plain, testing::ValuesIn(kOperations),
                         [](const auto &test) { return std::string(test.param.name); });

class PlainMemory : public KmodTest {};

// Huge pages where nothing is merged or loaded.
TEST_F(PlainMemory, HugePagesElsewhereInTheMapping) {
    if (huge_pages_are_off())
        GTEST_SKIP() << "transparent huge pages are off";
    if (flag_stays())
        GTEST_SKIP() << "the kernel has CONFIG_DEBUG_VM";
    const Source source({Content::kDistinct, fresh_seed()}, kPages);
    const Device upm;
    for (const bool load : {false, true}) {
        const Mapping memory = Mapping::huge(3 * kHugePage);
        must(::madvise(memory.base(), memory.len(), MADV_DONTNEED), "MADV_DONTNEED");
        if (load) {
            EXPECT_EQ(upm.load(source.fd(), 0, memory.base(), kLen).shared(), kPages);
        } else {
            must(::madvise(memory.base(), kHugePage, MADV_NOHUGEPAGE), "MADV_NOHUGEPAGE");
            for (std::size_t i = 0; i < kPages; i++)
                std::memcpy(memory.page(i), source.at(i * kPage), kPage);
            must(::madvise(memory.base(), kHugePage, MADV_HUGEPAGE), "MADV_HUGEPAGE");
            EXPECT_EQ(upm.advise(memory.base(), kLen).done(), kPages);
        }
        memory.base()[kHugePage] = std::byte{1};
        EXPECT_EQ(usage_of(0, memory.base(), memory.len()).anon_huge, kHugePage);
    }
}

} // namespace

} // namespace upm::test
