// SPDX-License-Identifier: MIT
//
// What is not merged: the call says why, page by page, and touches nothing.
#include "tests/kmod/support/actor.hpp"
#include "tests/kmod/support/uffd.hpp"

#include <cerrno>
#include <cstring>
#include <thread>

#include <fcntl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace upm::test {

namespace {

constexpr std::size_t kPages = 20;
constexpr int kReadWrite = PROT_READ | PROT_WRITE;
constexpr int kAnonymous = MAP_PRIVATE | MAP_ANONYMOUS;

class Skips : public KmodTest {
  protected:
    // All pages are left as they are, for this reason.
    void expect_skipped(const std::byte *base, std::size_t pages, upm_skip reason) {
        const Frames before = frames_of(0, base, pages);
        const Advice advice = upm_.advise(base, pages * kPage);
        EXPECT_EQ(advice.error, 0);
        EXPECT_EQ(advice.skipped(reason), pages);
        EXPECT_EQ(advice.done(), 0U);
        EXPECT_EQ(frames_of(0, base, pages), before);
    }
    void expect_skipped(const Mapping &mapping, upm_skip reason) {
        expect_skipped(mapping.base(), mapping.pages(), reason);
    }
    // The same memory can be merged now.
    void expect_merged(const Mapping &mapping) {
        const Advice advice = upm_.advise(mapping.base(), mapping.len());
        EXPECT_EQ(advice.error, 0);
        EXPECT_EQ(advice.counts.inserted, mapping.pages());
    }
    void expect_bytes(const Mapping &mapping) {
        std::array<std::byte, kPage> wanted{};
        for (std::size_t i = 0; i < mapping.pages(); i++) {
            pattern_.fill(i, wanted.data());
            EXPECT_EQ(std::memcmp(mapping.page(i), wanted.data(), kPage), 0) << "page " << i;
        }
    }
    Mapping filled(std::size_t pages = kPages) {
        Mapping mapping(pages * kPage);
        mapping.fill(pattern_);
        return mapping;
    }

    Device upm_;
    Pattern pattern_{Content::kDistinct, fresh_seed()};
};

// An advise must not bring memory into being.
TEST_F(Skips, NeverTouched) {
    const Mapping mapping(kPages * kPage);
    expect_skipped(mapping, UPM_SKIP_NOT_PRESENT);
    EXPECT_EQ(usage_of(0, mapping.base(), mapping.len()).rss, 0U);
    // The same without any page table.
    const Mapping far(kPages * kHugePage, kReadWrite, kAnonymous | MAP_NORESERVE);
    expect_skipped(far.base(), 8 * kHugePage / kPage, UPM_SKIP_NOT_PRESENT);
}

TEST_F(Skips, SharedMemory) {
    const Mapping anonymous(kPages * kPage, kReadWrite, MAP_SHARED | MAP_ANONYMOUS);
    anonymous.fill(pattern_);
    expect_skipped(anonymous, UPM_SKIP_SHARED);

    const Fd file = temporary_file(pattern_, kPages);
    const Mapping mapped(kPages * kPage, kReadWrite, MAP_SHARED, file.get());
    expect_bytes(mapped);
    expect_skipped(mapped, UPM_SKIP_SHARED);
    // Without the right to write it is VM_MAYSHARE only: still not private.
    const std::string path = "/proc/self/fd/" + std::to_string(file.get());
    const Fd reader(must(::open(path.c_str(), O_RDONLY | O_CLOEXEC), "open"));
    const Mapping read(kPages * kPage, PROT_READ, MAP_SHARED, reader.get());
    expect_bytes(read);
    expect_skipped(read, UPM_SKIP_SHARED);
}

TEST_F(Skips, SystemVSharedMemory) {
    const int id = must(::shmget(IPC_PRIVATE, kPages * kPage, IPC_CREAT | 0600), "shmget");
    auto *base = static_cast<std::byte *>(::shmat(id, nullptr, 0));
    ::shmctl(id, IPC_RMID, nullptr);
    std::memset(base, 1, kPages * kPage);
    expect_skipped(base, kPages, UPM_SKIP_SHARED);
    EXPECT_EQ(::shmdt(base), 0);
}

TEST_F(Skips, HugeTlb) {
    const Knob knob("/proc/sys/vm/nr_hugepages", 4);
    void *base = ::mmap(nullptr, 2 * kHugePage, kReadWrite, kAnonymous | MAP_HUGETLB, -1, 0);
    if (base == MAP_FAILED)
        GTEST_SKIP() << "no memory for huge pages of hugetlbfs";
    Mapping mapping;
    mapping.moved(static_cast<std::byte *>(base), 2 * kHugePage);
    std::memset(mapping.base(), 1, mapping.len());
    expect_skipped(mapping, UPM_SKIP_HUGETLB);
}

// Mappings of the kernel's own, and of devices.
TEST_F(Skips, Special) {
    unsigned found = 0;
    for (const MapEntry &entry : maps_of(0)) {
        if (entry.name != "[vdso]" && !entry.name.starts_with("[vvar"))
            continue;
        const auto *base = reinterpret_cast<std::byte *>(entry.start);
        expect_skipped(base, (entry.end - entry.start) / kPage, UPM_SKIP_SPECIAL);
        found++;
    }
    EXPECT_GE(found, 2U);
    const Fd zero(must(::open("/dev/zero", O_RDWR | O_CLOEXEC), "/dev/zero"));
    const Mapping mapping(kPages * kPage, kReadWrite, MAP_PRIVATE, zero.get());
    mapping.fill(pattern_);
    const Advice advice = upm_.advise(mapping.base(), mapping.len());
    EXPECT_EQ(advice.skipped(UPM_SKIP_SPECIAL) + advice.counts.inserted, kPages);
    expect_bytes(mapping);
}

// ---- userfaultfd -------------------------------------------------------------

// Somebody else handles the faults of this memory, and would see ours. Only the
// watched part is left out, and only as long as it is watched.
TEST_F(Skips, UserfaultfdMissing) {
    const Uffd uffd(0);
    if (!uffd)
        GTEST_SKIP() << "no userfaultfd";
    const Mapping mapping = filled();
    ASSERT_EQ(uffd.watch(mapping.page(4), 8 * kPage, UFFDIO_REGISTER_MODE_MISSING), 0);
    expect_skipped(mapping.page(4), 8, UPM_SKIP_UFFD);
    const Advice advice = upm_.advise(mapping.base(), mapping.len());
    EXPECT_EQ(advice.skipped(UPM_SKIP_UFFD), 8U);
    EXPECT_EQ(advice.counts.inserted, kPages - 8);
    expect_bytes(mapping);
    uffd.ignore(mapping.page(4), 8 * kPage);
    EXPECT_EQ(upm_.advise(mapping.base(), mapping.len()).counts.inserted, 8U);
    expect_bytes(mapping);
}

TEST_F(Skips, UserfaultfdWriteProtect) {
    const Uffd uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
    if (!uffd)
        GTEST_SKIP() << "no userfaultfd with write protection";
    const Mapping mapping = filled();
    ASSERT_EQ(uffd.watch(mapping.base(), mapping.len(), UFFDIO_REGISTER_MODE_WP), 0);
    expect_skipped(mapping, UPM_SKIP_UFFD);
    expect_bytes(mapping);
}

// Write protection by userfaultfd over pages that are merged already: the handler
// is asked before the write, and the other bytes of the page stay.
TEST_F(Skips, UserfaultfdOverMergedPages) {
    const Uffd uffd(UFFD_FEATURE_PAGEFAULT_FLAG_WP);
    if (!uffd)
        GTEST_SKIP() << "no userfaultfd with write protection";
    const Mapping mapping = filled();
    expect_merged(mapping);
    if (uffd.watch(mapping.base(), mapping.len(), UFFDIO_REGISTER_MODE_WP) != 0) {
        expect_bytes(mapping);
        GTEST_SKIP() << "this kernel lets nobody watch merged memory";
    }
    uffdio_writeprotect protect{};
    protect.range = {.start = reinterpret_cast<std::uintptr_t>(mapping.base()),
                     .len = mapping.len()};
    protect.mode = UFFDIO_WRITEPROTECT_MODE_WP;
    ASSERT_EQ(::ioctl(uffd.get(), UFFDIO_WRITEPROTECT, &protect), 0);
    std::thread writer([&] { mapping.page(3)[9] = std::byte{42}; });
    uffd_msg message{};
    EXPECT_TRUE(eventually(
        [&] { return ::read(uffd.get(), &message, sizeof(message)) == sizeof(message); }));
    EXPECT_EQ(message.event, UFFD_EVENT_PAGEFAULT);
    EXPECT_EQ(message.arg.pagefault.address / kPage,
              reinterpret_cast<std::uintptr_t>(mapping.page(3)) / kPage);
    protect.mode = 0;
    EXPECT_EQ(::ioctl(uffd.get(), UFFDIO_WRITEPROTECT, &protect), 0);
    writer.join();
    EXPECT_EQ(mapping.page(3)[9], std::byte{42});
    std::array<std::byte, kPage> wanted{};
    pattern_.fill(3, wanted.data());
    mapping.page(3)[9] = wanted[9];
    expect_bytes(mapping);
}

// ---- secrets -------------------------------------------------------------------

// Programs mark what must not leave them: it must not be comparable either.
TEST_F(Skips, Secrets) {
    for (const int advice : {MADV_DONTDUMP, MADV_WIPEONFORK}) {
        const Mapping mapping = filled();
        ASSERT_EQ(::madvise(mapping.base(), mapping.len(), advice), 0);
        expect_skipped(mapping, UPM_SKIP_SECRET);
        expect_bytes(mapping);
    }
    // Taken back, it is memory like any other.
    const Mapping mapping = filled();
    ASSERT_EQ(::madvise(mapping.base(), mapping.len(), MADV_DONTDUMP), 0);
    ASSERT_EQ(::madvise(mapping.base(), mapping.len(), MADV_DODUMP), 0);
    expect_merged(mapping);
}

// memfd_secret(2) is shared memory, so the first reason that applies is that.
TEST_F(Skips, SecretMemory) {
    const Fd fd(static_cast<int>(::syscall(SYS_memfd_secret, O_CLOEXEC)));
    if (!fd)
        GTEST_SKIP() << "no secret memory (secretmem.enable=1)";
    ASSERT_EQ(::ftruncate(fd.get(), kPages * kPage), 0);
    const Mapping mapping(kPages * kPage, kReadWrite, MAP_SHARED, fd.get());
    mapping.fill(pattern_);
    const Advice advice = upm_.advise(mapping.base(), mapping.len());
    EXPECT_EQ(advice.error, 0);
    EXPECT_EQ(advice.skipped(UPM_SKIP_SECRET) + advice.skipped(UPM_SKIP_SHARED), kPages);
    expect_bytes(mapping);
}

TEST_F(Skips, DroppableMemory) {
    constexpr int kMapDroppable = 0x08; // 6.11
    void *base = ::mmap(nullptr, kPages * kPage, kReadWrite, kMapDroppable | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED)
        GTEST_SKIP() << "this kernel has no MAP_DROPPABLE";
    Mapping mapping;
    mapping.moved(static_cast<std::byte *>(base), kPages * kPage);
    mapping.fill(pattern_);
    expect_skipped(mapping, UPM_SKIP_SECRET);
}

// ---- pages of others ------------------------------------------------------------

// What KSM has merged stays KSM's: it would be two copies else.
TEST_F(Skips, KsmPages) {
    const Knob pages("/sys/kernel/mm/ksm/pages_to_scan", 2000);
    const Knob pause("/sys/kernel/mm/ksm/sleep_millisecs", 1);
    const Mapping first = filled();
    const Mapping second = filled();
    for (const Mapping *mapping : {&first, &second})
        ASSERT_EQ(::madvise(mapping->base(), mapping->len(), MADV_MERGEABLE), 0);
    {
        const Knob run("/sys/kernel/mm/ksm/run", 1);
        // Not by the flag in kpageflags: 6.12 shows it on all anonymous pages.
        ASSERT_TRUE(eventually([&] {
            return equal_frames(frames_of(0, first.base(), kPages),
                                frames_of(0, second.base(), kPages)) == kPages;
        }));
    }
    expect_skipped(first, UPM_SKIP_KSM);
    expect_bytes(first);
    // 2 undoes what KSM merged; then the pages are ours to merge.
    ASSERT_EQ(write_file("/sys/kernel/mm/ksm/run", "2"), 0);
    for (const Mapping *mapping : {&first, &second}) {
        ASSERT_EQ(::madvise(mapping->base(), mapping->len(), MADV_UNMERGEABLE), 0);
        EXPECT_EQ(upm_.advise(mapping->base(), mapping->len()).done(), kPages);
        expect_bytes(*mapping);
    }
    ASSERT_EQ(write_file("/sys/kernel/mm/ksm/run", "0"), 0);
    EXPECT_EQ(equal_frames(frames_of(0, first.base(), kPages), frames_of(0, second.base(), kPages)),
              kPages);
}

// KSM at work on memory that UPM merges at the same time.
TEST_F(Skips, KsmRunsMeanwhile) {
    const Knob pages("/sys/kernel/mm/ksm/pages_to_scan", 2000);
    const Knob pause("/sys/kernel/mm/ksm/sleep_millisecs", 1);
    const Knob run("/sys/kernel/mm/ksm/run", 1);
    const double end = now() + 3;
    while (now() < end) {
        const Mapping first = filled();
        const Mapping second = filled();
        ::madvise(first.base(), first.len(), MADV_MERGEABLE);
        ::madvise(second.base(), second.len(), MADV_MERGEABLE);
        for (int round = 0; round < 10; round++) {
            EXPECT_EQ(upm_.advise(first.base(), first.len()).error, 0);
            first.page(static_cast<std::size_t>(round))[0] ^= std::byte{1};
            first.page(static_cast<std::size_t>(round))[0] ^= std::byte{1};
            EXPECT_EQ(upm_.advise(second.base(), second.len()).error, 0);
        }
        expect_bytes(first);
        expect_bytes(second);
    }
}

// ---- several kinds in one call ----------------------------------------------------

// A range over many mappings: each page has its own fate, and the sum is right.
TEST_F(Skips, MixedRange) {
    const Mapping mapping = filled(40);
    const auto map_over = [&](std::size_t page, std::size_t pages, int flags) {
        ASSERT_EQ(::mmap(mapping.page(page), pages * kPage, kReadWrite, flags | MAP_FIXED, -1, 0),
                  mapping.page(page));
    };
    map_over(4, 6, MAP_SHARED | MAP_ANONYMOUS);
    map_over(14, 5, kAnonymous);
    ASSERT_EQ(::madvise(mapping.page(22), 3 * kPage, MADV_DONTDUMP), 0);
    std::memset(mapping.page(30), 0, 2 * kPage);
    const Advice advice = upm_.advise(mapping.base(), mapping.len());
    EXPECT_EQ(advice.error, 0);
    EXPECT_EQ(advice.counts.pages, 40U);
    EXPECT_EQ(advice.skipped(UPM_SKIP_SHARED), 6U);
    EXPECT_EQ(advice.skipped(UPM_SKIP_NOT_PRESENT), 5U);
    EXPECT_EQ(advice.skipped(UPM_SKIP_SECRET), 3U);
    EXPECT_EQ(advice.counts.zero, 2U);
    EXPECT_EQ(advice.counts.inserted, 40U - 6 - 5 - 3 - 2);
}

} // namespace

} // namespace upm::test
