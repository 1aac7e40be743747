// SPDX-License-Identifier: MIT
//
// System calls that change a mapping, on merged memory of every kind: what they
// promise of ordinary memory they keep here.
#include "tests/kmod/support/actor.hpp"

#include <array>
#include <cerrno>
#include <csetjmp>
#include <csignal>

#include <sys/mman.h>

namespace upm::test {

namespace {

constexpr int kMadvCollapse = 25; // not yet in the headers of Debian 12

class MappingOps : public PairTest {};
UPM_TEST_ALL_KINDS(MappingOps);

// The frames move with the mapping.
TEST_P(MappingOps, MremapMoves) {
    a().call(+[] {
        Region &r = region();
        Mapping place(r.len(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS);
        void *to =
            ::mremap(r.base(), r.len(), r.len(), MREMAP_MAYMOVE | MREMAP_FIXED, place.base());
        ASSERT_EQ(to, place.base());
        r.mapping().moved(place.base(), r.len());
        place.moved(nullptr, 0);
    });
    EXPECT_EQ(equal_frames(a().frames(), b().frames()), pages());
    check_both();
}

// Growing keeps what was there; the rest is new. In place a kernel with CONFIG_DEBUG_VM
// refuses to extend a mapping that holds inserted pages: then nothing may have happened.
TEST_P(MappingOps, MremapGrows) {
    if (of_file(kind()) || kind() == Kind::kStack)
        GTEST_SKIP() << "a file has no more pages, and a stack grows downwards";
    a().call(+[] {
        Region &r = region();
        void *to = ::mremap(r.base(), r.len(), 2 * r.len(), MREMAP_MAYMOVE);
        if (to == MAP_FAILED) {
            EXPECT_EQ(errno, ENOMEM);
            r.check();
            return;
        }
        r.mapping().moved(static_cast<std::byte *>(to), r.len());
        r.check();
        auto *more = static_cast<std::byte *>(to) + r.len();
        EXPECT_EQ(more[0], std::byte{0});
        EXPECT_EQ(::munmap(more, r.len()), 0);
    });
    check_both();
}

// Growing into another place always works.
TEST_P(MappingOps, MremapGrowsElsewhere) {
    if (of_file(kind()) || kind() == Kind::kStack)
        GTEST_SKIP() << "a file has no more pages, and a stack grows downwards";
    a().call(+[] {
        Region &r = region();
        Mapping place(2 * r.len(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS);
        void *to =
            ::mremap(r.base(), r.len(), 2 * r.len(), MREMAP_MAYMOVE | MREMAP_FIXED, place.base());
        ASSERT_EQ(to, place.base()) << std::strerror(errno);
        r.mapping().moved(place.base(), r.len());
        EXPECT_EQ(place.page(r.pages())[0], std::byte{0});
        EXPECT_EQ(::munmap(place.page(r.pages()), r.len()), 0);
        place.moved(nullptr, 0);
    });
    EXPECT_EQ(equal_frames(a().frames(), b().frames()), pages());
    check_both();
}

// The old place reads zeros (anonymous) or the file, the new one has the bytes.
TEST_P(MappingOps, MremapDontUnmap) {
    if (kind() == Kind::kStack)
        GTEST_SKIP() << "the kernel refuses MREMAP_DONTUNMAP on a growing stack on some versions";
    a().call(+[] {
        Region &r = region();
        void *to = ::mremap(r.base(), r.len(), r.len(), MREMAP_MAYMOVE | MREMAP_DONTUNMAP, nullptr);
        ASSERT_NE(to, MAP_FAILED);
        const Mapping old = std::move(r.mapping());
        r.mapping().moved(static_cast<std::byte *>(to), old.len());
        r.check();
        if (!of_file(r.kind())) {
            EXPECT_EQ(old.page(3)[5], std::byte{0});
            EXPECT_EQ(device().advise(old.base(), old.len()).error, 0);
        }
    });
    check_both();
}

// No access means no access, and permission back means the same bytes in the
// same frames: a merged page must not become writable by the way.
TEST_P(MappingOps, MprotectAndBack) {
    a().call(+[] {
        Region &r = region();
        for (const int protection : {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE})
            ASSERT_EQ(::mprotect(r.base(), r.len(), protection), 0);
    });
    // Locked memory that becomes writable is made private by the kernel at once.
    if (kind() != Kind::kLocked) {
        EXPECT_EQ(equal_frames(a().frames(), b().frames()), pages());
    }
    check_both();
}

// A merge of memory that cannot be accessed right now.
TEST_P(MappingOps, AdviseWithoutAccess) {
    if (of_file(kind()))
        GTEST_SKIP() << "private copies in a file mapping stay private";
    a().call(+[] {
        Region &r = region();
        ASSERT_EQ(::mprotect(r.base(), r.len(), PROT_READ | PROT_WRITE), 0);
        for (std::size_t i = 0; i < r.pages(); i++)
            r.write(i, ~i);
        ASSERT_EQ(::mprotect(r.base(), r.len(), PROT_NONE), 0);
        const Advice advice = device().advise(r.base(), r.len());
        EXPECT_EQ(advice.error, 0);
        EXPECT_EQ(advice.counts.inserted, r.pages());
        ASSERT_EQ(::mprotect(r.base(), r.len(), PROT_READ | PROT_WRITE), 0);
    });
    check_both();
}

// A part of a mapping gets another protection: the mapping is split there.
TEST_P(MappingOps, MprotectOfPart) {
    a().call(+[] {
        Region &r = region();
        ASSERT_EQ(::mprotect(r.page(8), 16 * kPage, PROT_READ), 0);
        EXPECT_EQ(device().advise(r.base(), r.len()).counts.already, r.pages());
        r.check();
        ASSERT_EQ(::mprotect(r.page(8), 16 * kPage, PROT_READ | PROT_WRITE), 0);
    });
    check_both();
}

// A hole in the middle; what is left stays merged.
TEST_P(MappingOps, MunmapOfPart) {
    a().call(+[] {
        Region &r = region();
        ASSERT_EQ(::munmap(r.page(16), 8 * kPage), 0);
        EXPECT_EQ(device().advise(r.base(), r.len()).error, ENOMEM);
        EXPECT_EQ(device().advise(r.base(), 16 * kPage).counts.already, 16U);
        // Something else in the hole.
        ASSERT_NE(::mmap(r.page(16), 8 * kPage, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
                  MAP_FAILED);
        r.expect_zeros(16, 8);
    });
    check_both();
}

// MADV_DONTNEED drops the pages: anonymous memory reads zeros afterwards, a file
// mapping what the file has. The model of the store backend, which maps other
// files there, would not do.
TEST_P(MappingOps, MadviseDontNeed) {
    if (kind() == Kind::kLocked)
        GTEST_SKIP() << "the kernel refuses MADV_DONTNEED on locked memory";
    a().call(+[] {
        Region &r = region();
        ASSERT_EQ(::madvise(r.page(4), 20 * kPage, MADV_DONTNEED), 0);
        if (of_file(r.kind()))
            r.expect_file(4, 20);
        else
            r.expect_zeros(4, 20);
        r.check();
    });
    EXPECT_EQ(equal_frames(a().frames(), b().frames()), pages() - 20);
    check_both();
}

// MADV_FREE may drop a page or not; a page that was written stays written.
TEST_P(MappingOps, MadviseFree) {
    if (of_file(kind()) || kind() == Kind::kLocked)
        GTEST_SKIP() << "MADV_FREE takes only anonymous memory that is not locked";
    a().allow_writes();
    a().call(+[] {
        Region &r = region();
        ASSERT_EQ(::madvise(r.page(4), 8 * kPage, MADV_FREE), 0);
        for (std::size_t i = 4; i < 12; i++)
            std::memset(r.page(i), 7, kPage), std::memset(r.model(i * kPage), 7, kPage);
        r.check();
        EXPECT_EQ(device().advise(r.base(), r.len()).error, 0);
    });
    check_both();
}

// Advice about reclaim, huge pages, core dumps, merging by KSM: nothing happens
// to the bytes, and what follows of them is right.
TEST_P(MappingOps, MadviseOthers) {
    a().call(+[] {
        Region &r = region();
        for (const int advice :
             {MADV_COLD, MADV_PAGEOUT, MADV_WILLNEED, MADV_HUGEPAGE, MADV_NOHUGEPAGE,
              MADV_MERGEABLE, MADV_UNMERGEABLE, MADV_SEQUENTIAL, MADV_DONTFORK, MADV_DOFORK,
              MADV_NORMAL, kMadvCollapse, MADV_POPULATE_READ}) {
            ::madvise(r.base(), r.len(), advice); // some refuse some kinds
            r.check();
        }
        EXPECT_EQ(device().advise(r.base(), r.len()).error, 0);
    });
    check_both();
}

// MADV_POPULATE_WRITE breaks the sharing as writes would.
TEST_P(MappingOps, MadvisePopulateWrite) {
    if (of_file(kind()))
        GTEST_SKIP() << "private copies in a file mapping stay private";
    a().allow_writes();
    a().call(+[] {
        Region &r = region();
        ASSERT_EQ(::madvise(r.base(), r.len(), MADV_POPULATE_WRITE), 0);
    });
    EXPECT_EQ(common_frames(a().frames(), b().frames()), 0U);
    EXPECT_EQ(a().advise().counts.merged, pages());
    EXPECT_EQ(equal_frames(a().frames(), b().frames()), pages());
    check_both();
}

// Locking and unlocking merged memory.
TEST_P(MappingOps, MlockAndMunlock) {
    a().call(+[] {
        Region &r = region();
        ASSERT_EQ(::mlock(r.base(), r.len()), 0);
        r.check();
        r.allow_writes();
        r.write(2, 5);
        EXPECT_EQ(device().advise(r.base(), r.len()).error, 0);
        r.check();
        ASSERT_EQ(::munlock(r.base(), r.len()), 0);
    });
    check_both();
}

// mlockall(MCL_CURRENT | MCL_FUTURE) and advise, in either order.
TEST_P(MappingOps, MlockAll) {
    a().call(+[] {
        Region &r = region();
        ASSERT_EQ(::mlockall(MCL_CURRENT | MCL_FUTURE), 0);
        r.check();
        EXPECT_EQ(device().advise(r.base(), r.len()).error, 0);
        r.check();
        ASSERT_EQ(::munlockall(), 0);
    });
    check_both();
}

// A new mapping over merged pages.
TEST_P(MappingOps, MmapFixedOver) {
    a().call(+[] {
        Region &r = region();
        ASSERT_NE(::mmap(r.page(10), 12 * kPage, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
                  MAP_FAILED);
        r.expect_zeros(10, 12);
        EXPECT_EQ(device().advise(r.base(), r.len()).error, 0);
        r.check();
    });
    check_both();
}

// ---- not for every kind -----------------------------------------------------

class StackOps : public KmodTest {};

constexpr std::size_t kPages = 16;

// A stack whose bottom is merged grows on below it.
TEST_F(StackOps, GrowsBelowMergedPages) {
    Process child;
    child.call(+[] {
        const Mapping room(256 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS);
        std::byte *top = room.page(240);
        ASSERT_NE(::mmap(top, kPages * kPage, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_GROWSDOWN, -1, 0),
                  MAP_FAILED);
        ASSERT_EQ(::munmap(room.base(), 240 * kPage), 0);
        const Pattern pattern{Content::kDistinct, fresh_seed()};
        for (std::size_t i = 0; i < kPages; i++)
            pattern.fill(i, top + i * kPage);
        const Device upm;
        EXPECT_EQ(upm.advise(top, kPages * kPage).counts.inserted, kPages);
        // Below the mapping: the kernel extends it.
        for (std::size_t i = 1; i <= 8; i++)
            pattern.fill(100 + i, top - i * kPage);
        EXPECT_EQ(upm.advise(top - 8 * kPage, (kPages + 8) * kPage).done(), kPages + 8);
        std::array<std::byte, kPage> wanted{};
        for (std::size_t i = 1; i <= 8; i++) {
            pattern.fill(100 + i, wanted.data());
            EXPECT_EQ(std::memcmp(top - i * kPage, wanted.data(), kPage), 0);
        }
        for (std::size_t i = 0; i < kPages; i++) {
            pattern.fill(i, wanted.data());
            EXPECT_EQ(std::memcmp(top + i * kPage, wanted.data(), kPage), 0);
        }
    });
}

// The stack that the program runs on, with the call's own frame on it.
TEST_F(StackOps, OwnStack) {
    Process child;
    child.call(+[] {
        std::array<std::uint64_t, 4096> local{};
        for (std::size_t i = 0; i < local.size(); i++)
            local[i] = i * 0x9e3779b97f4a7c15;
        const Device upm;
        for (const MapEntry &entry : maps_of(0)) {
            if (entry.name != "[stack]")
                continue;
            auto *start = reinterpret_cast<std::byte *>(entry.start);
            for (int round = 0; round < 20; round++) {
                const Advice advice = upm.advise(start, entry.end - entry.start);
                EXPECT_EQ(advice.error, 0);
                EXPECT_GE(advice.done(), 4U);
            }
        }
        for (std::size_t i = 0; i < local.size(); i++)
            ASSERT_EQ(local[i], i * 0x9e3779b97f4a7c15);
    });
}

// Everything that a process has mapped: code, data, heap, stack, libraries. The
// process advises the very code that it runs.
TEST_F(StackOps, WholeProcess) {
    Process child;
    for (int round = 0; round < 3; round++) {
        child.call(+[] {
            const Device upm;
            std::uint64_t done = 0;
            for (const MapEntry &entry : maps_of(0)) {
                if (entry.name == "[vsyscall]")
                    continue;
                const Advice advice =
                    upm.advise(reinterpret_cast<void *>(entry.start), entry.end - entry.start);
                EXPECT_EQ(advice.error, 0) << entry.name;
                done += advice.done();
            }
            EXPECT_GT(done, 100U);
        });
    }
    EXPECT_EQ(child.end(), 0);
}

// ---- permission -------------------------------------------------------------

sigjmp_buf fault_return;
void on_fault(int) {
    siglongjmp(fault_return, 1);
}

// Does a write to the byte fault?
bool write_faults(volatile std::byte *byte) {
    struct sigaction action {};
    struct sigaction before {};
    action.sa_handler = on_fault;
    action.sa_flags = SA_NODEFER;
    ::sigaction(SIGSEGV, &action, &before);
    const bool faults = sigsetjmp(fault_return, 1) != 0;
    if (!faults)
        *byte = *byte;
    ::sigaction(SIGSEGV, &before, nullptr);
    return faults;
}

// Merging gives nobody a permission that the mapping does not have.
TEST_P(MappingOps, PermissionStays) {
    a().call(+[] {
        Region &r = region();
        const bool writable = r.kind() != Kind::kReadOnly && r.kind() != Kind::kText;
        EXPECT_EQ(write_faults(r.page(5)), !writable);
        ASSERT_EQ(::mprotect(r.base(), r.len(), PROT_READ), 0);
        EXPECT_TRUE(write_faults(r.page(6)));
        ASSERT_EQ(::mprotect(r.base(), r.len(), PROT_READ | PROT_WRITE), 0);
    });
    check_both();
}

} // namespace

} // namespace upm::test
