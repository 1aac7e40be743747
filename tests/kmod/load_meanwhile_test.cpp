// SPDX-License-Identifier: MIT
//
// Loads, and what happens around them: fork, huge pages, limits of memory, threads that
// write, map and unmap, a brake, a file or a fault that never comes.
#include "tests/kmod/support/actor.hpp"
#include "tests/kmod/support/cgroup.hpp"
#include "tests/kmod/support/slow_file.hpp"
#include "tests/kmod/support/source.hpp"
#include "tests/kmod/support/uffd.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <thread>
#include <vector>

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

namespace upm::test {

namespace {

constexpr std::size_t kPages = 512;

class LoadsAnd : public KmodTest {
  protected:
    static Pattern distinct() { return {Content::kDistinct, fresh_seed()}; }
    Source source_{distinct(), kPages};
};

// ---- fork ------------------------------------------------------------------------

// The kernel copies the page table of no mapping that never had a write fault: a child
// must find what its parent has loaded, and each keeps its own writes.
TEST_F(LoadsAnd, Fork) {
    Process child;
    child.call(
        +[](const Source *source) {
            const Mapping memory(kPages * kPage);
            const Device upm;
            ASSERT_EQ(upm.load(source->fd(), 0, memory.base(), memory.len()).shared(), kPages);
            const pid_t pid = fork_tied();
            if (pid == 0) {
                const bool same = source->equal(memory.base(), 0, memory.len());
                std::memset(memory.base(), 1, memory.len());
                ::_exit(same ? 0 : 1);
            }
            EXPECT_EQ(wait_for(pid), 0);
            EXPECT_TRUE(source->equal(memory.base(), 0, memory.len()));
        },
        &source_);
}

// ---- huge pages --------------------------------------------------------------------

class LoadsAndHugePages : public LoadsAnd {
  protected:
    void SetUp() override {
        LoadsAnd::SetUp();
        if (huge_pages_are_off())
            GTEST_SKIP() << "transparent huge pages are off";
    }
    // Never touched, aligned to huge pages, which it asks for.
    static Mapping empty(std::size_t len) {
        Mapping memory = Mapping::huge(len);
        must(::madvise(memory.base(), len, MADV_DONTNEED), "MADV_DONTNEED");
        return memory;
    }
};

// Neither what makes the mapping's anon_vma, nor head and tail bring a huge page.
TEST_F(LoadsAndHugePages, BringNone) {
    for (const std::size_t head : {std::size_t{0}, std::size_t{3984}}) {
        const Mapping memory = empty(2 * kHugePage);
        const Device upm;
        const std::size_t len = (kPages - 1) * kPage; // in one huge page's place
        const Loaded loaded = upm.load(source_.fd(), 0, memory.base() + head, len);
        EXPECT_EQ(loaded.done, len);
        EXPECT_TRUE(source_.equal(memory.base() + head, 0, len));
        EXPECT_EQ(loaded.copied, head == 0 ? 0 : kPage);
        EXPECT_EQ(usage_of(0, memory.base(), memory.len()).anon_huge, 0U);
    }
}

// One is there: it stays, and has the bytes.
TEST_F(LoadsAndHugePages, LeaveOne) {
    const Mapping memory = Mapping::huge(2 * kHugePage);
    must(::madvise(memory.base() + kHugePage, kHugePage, MADV_DONTNEED), "MADV_DONTNEED");
    const Device upm;
    const Loaded loaded = upm.load(source_.fd(), 0, memory.page(256), kPages * kPage);
    EXPECT_TRUE(source_.equal(memory.page(256), 0, kPages * kPage));
    EXPECT_EQ(loaded.counts.skipped[UPM_SKIP_PRESENT], 256U);
    EXPECT_EQ(loaded.shared(), 256U);
    EXPECT_EQ(usage_of(0, memory.base(), memory.len()).anon_huge, kHugePage);
}

// ---- memory ------------------------------------------------------------------------

// A load of known content needs next to no memory, where a read would end the process.
TEST_F(LoadsAnd, PeakIsSmall) {
    const Cgroup cgroup;
    if (!cgroup)
        GTEST_SKIP() << "no memory controller of cgroup v2";
    static constexpr std::size_t kMany = 8 * kPages; // 16 MiB
    const Source big(distinct(), kMany);
    const Mapping first(kMany * kPage);
    const Device upm;
    ASSERT_EQ(upm.load(big.fd(), 0, first.base(), first.len()).counts.inserted, kMany);
    Process child([&] { cgroup.join(::getpid()); });
    cgroup.limit(cgroup.current() + (std::uint64_t{2} << 20U));
    child.call(
        +[](int fd) {
            const Mapping memory(kMany * kPage);
            const Loaded loaded = Device().load(fd, 0, memory.base(), memory.len());
            EXPECT_EQ(loaded.error, 0);
            EXPECT_EQ(loaded.counts.merged, kMany);
        },
        big.fd());
    EXPECT_FALSE(cgroup.killed_any());
}

// New content counts for the group of the process that loaded it, whoever opened the
// device, and not at all if the knob says so.
TEST_F(LoadsAnd, WhoPays) {
    static constexpr std::size_t kMany = 4 * kPages;
    for (const bool charge : {true, false}) {
        const Knob knob("charge", charge ? 1 : 0);
        const Source big(distinct(), kMany);
        const Cgroup cgroup;
        if (!cgroup)
            GTEST_SKIP() << "no memory controller of cgroup v2";
        const Device upm;
        const Mapping warm(kPage);
        ASSERT_EQ(upm.load(big.fd(), 0, warm.base(), kPage).done, kPage);
        Process child([&] { cgroup.join(::getpid()); });
        const std::uint64_t before = cgroup.current();
        child.call(
            +[](const Device *device, int fd) {
                auto *memory = new Mapping(kMany * kPage);
                EXPECT_GE(device->load(fd, 0, memory->base(), memory->len()).counts.inserted,
                          kMany - 1);
            },
            &upm, big.fd());
        // The kernel counts in batches of up to 64 pages for each processor.
        const std::uint64_t pages = (cgroup.current() - before) / kPage;
        if (charge)
            EXPECT_GE(pages + 256, kMany);
        else
            EXPECT_LE(pages, std::uint64_t{512});
    }
}

// ---- ends before its time ------------------------------------------------------------

// The brake stops a load in flight; what was read is right, and it says how much.
TEST_F(LoadsAnd, Brake) {
    static constexpr std::size_t kMany = 16 * kPages;
    const Knob small("batch_pages", 1);
    const Source big(distinct(), kMany);
    Process child;
    const std::uint64_t before = statistic("batches");
    child.start(
        +[](const Source *source) {
            const Mapping memory(kMany * kPage);
            const Loaded loaded = Device().load(source->fd(), 0, memory.base(), memory.len());
            EXPECT_EQ(loaded.error, 0);
            EXPECT_LT(loaded.done, memory.len());
            EXPECT_TRUE(source->equal(memory.base(), 0, loaded.done));
        },
        &big);
    ASSERT_TRUE(eventually([&] { return statistic("batches") > before + 4; }));
    {
        const Knob brake("enabled", 0);
        child.finish<void>();
    }
}

TEST_F(LoadsAnd, FatalSignal) {
    static constexpr std::size_t kMany = 16 * kPages;
    const Knob small("batch_pages", 1);
    const Source big(distinct(), kMany);
    Process child;
    const std::uint64_t before = statistic("batches");
    child.start(
        +[](int fd) {
            const Mapping memory(kMany * kPage);
            static_cast<void>(Device().load(fd, 0, memory.base(), memory.len()));
        },
        big.fd());
    ASSERT_TRUE(eventually([&] { return statistic("batches") > before + 4; }));
    child.kill(); // waits until it is gone
    EXPECT_LT(statistic("batches"), before + kMany);
}

// ---- waits ---------------------------------------------------------------------------

// While the file does not answer, the process can map, unmap and fork.
TEST_F(LoadsAnd, FileThatDoesNotAnswer) {
    if (!SlowFile::available())
        GTEST_SKIP() << "no FUSE";
    static constexpr std::size_t kFew = 16;
    std::vector<std::byte> content(source_.at(0), source_.at(kFew * kPage));
    SlowFile slow(content);
    const Fd file(must(::open(slow.path().c_str(), O_RDONLY | O_CLOEXEC), "open"));
    const Mapping memory(kFew * kPage);
    Loaded loaded;
    std::thread reader([&] { loaded = Device().load(file.get(), 0, memory.base(), memory.len()); });
    EXPECT_TRUE(eventually([&] { return slow.reading(); }));
    {
        const Mapping other(kFew * kPage);
        std::memset(other.base(), 1, other.len());
    }
    *memory.page(3) = std::byte{7}; // comes before what is loaded
    slow.release();
    reader.join();
    EXPECT_EQ(loaded.done, memory.len());
    EXPECT_EQ(loaded.shared(), kFew - 1);
    EXPECT_TRUE(source_.equal(memory.base(), 0, memory.len()));
}

// While a fault on the destination waits, no shared page is held: what the program has
// unmapped meanwhile goes.
TEST_F(LoadsAnd, FaultThatWaits) {
    const Uffd uffd(0);
    if (!uffd)
        GTEST_SKIP() << "no userfaultfd";
    constexpr std::size_t kFirst = 200;
    Mapping memory(kPages * kPage);
    ASSERT_EQ(
        uffd.watch(memory.page(kFirst), (kPages - kFirst) * kPage, UFFDIO_REGISTER_MODE_MISSING),
        0);
    const Device upm;
    Loaded loaded;
    std::thread reader([&] { loaded = upm.load(source_.fd(), 0, memory.base(), memory.len()); });
    uffd_msg message{};
    EXPECT_TRUE(eventually(
        [&] { return ::read(uffd.get(), &message, sizeof(message)) == sizeof(message); }));
    EXPECT_EQ(message.arg.pagefault.address & ~(kPage - 1),
              reinterpret_cast<std::uintptr_t>(memory.page(kFirst)));
    EXPECT_EQ(statistic("pages_shared"), kFirst);
    must(::madvise(memory.base(), kFirst * kPage, MADV_DONTNEED), "MADV_DONTNEED");
    sweep();
    EXPECT_EQ(statistic("pages_shared"), 0U);
    EXPECT_EQ(statistic("pages_unused"), 0U);
    uffd.ignore(memory.page(kFirst), (kPages - kFirst) * kPage); // wakes it up
    reader.join();
    EXPECT_EQ(loaded.done, memory.len());
    EXPECT_TRUE(source_.equal(memory.page(kFirst), kFirst * kPage, (kPages - kFirst) * kPage));
}

// ---- threads ---------------------------------------------------------------------------

// A thread writes to pages beside the destination, and to pages of it that are its own by
// then: nothing of that is lost, though all of them are filled in the same page table.
TEST_F(LoadsAnd, WritesBeside) {
    Process child;
    child.call(
        +[](const Source *source, double seconds) {
            const Mapping memory(2 * kPages * kPage);
            std::atomic<bool> stop{false};
            std::thread writer([&] {
                // Odd pages of the first half, the writer's own, come and go.
                std::uint64_t round = 1;
                for (; !stop; round++) {
                    for (std::size_t i = 1; i < kPages; i += 2)
                        std::memcpy(memory.page(i), &round, sizeof(round));
                    for (std::size_t i = 1; i < kPages; i += 2) {
                        std::uint64_t found = 0;
                        std::memcpy(&found, memory.page(i), sizeof(found));
                        ASSERT_EQ(found, round) << "page " << i;
                        if (i % 16 == 1)
                            must(::madvise(memory.page(i), kPage, MADV_DONTNEED), "DONTNEED");
                    }
                }
            });
            const Device upm;
            Random random(1);
            const double end = now() + seconds;
            for (unsigned round = 0; now() < end || round < 30; round++) {
                const std::size_t page = 2 * random.below(kPages / 2);
                EXPECT_EQ(upm.load(source->fd(), page * kPage, memory.page(page), kPage).done,
                          kPage);
                EXPECT_TRUE(source->equal(memory.page(page), page * kPage, kPage));
                std::byte *half = memory.page(kPages);
                EXPECT_EQ(upm.load(source->fd(), 77, half + 9, (kPages - 1) * kPage).done,
                          (kPages - 1) * kPage);
                EXPECT_TRUE(source->equal(half + 9, 77, (kPages - 1) * kPage));
                must(::madvise(half, kPages * kPage, MADV_DONTNEED), "DONTNEED");
                must(::madvise(memory.page(page), kPage, MADV_DONTNEED), "DONTNEED");
            }
            stop = true;
            writer.join();
        },
        &source_, test_seconds(3));
}

// Loads into the same memory by two threads, against writes, DONTNEED, huge pages, advise,
// unmerge, fork and mremap. When all is quiet, a load is exact, and nothing was damaged.
void race(const Source *source, double seconds) {
    constexpr std::size_t kLen = kPages * kPage;
    const Mapping memory(kLen, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS);
    const Device upm;
    std::atomic<bool> stop{false};
    const auto loader = [&](std::uint64_t seed) {
        Random random(seed);
        while (!stop) {
            const std::size_t at = random.below(kLen - 1);
            const std::size_t len = random.below(kLen - at);
            const Loaded loaded =
                upm.load(source->fd(), random.below(kLen - len), memory.base() + at, len);
            EXPECT_EQ(loaded.error, 0);
            EXPECT_EQ(loaded.done, len);
        }
    };
    const auto others = [&] {
        Random random(3);
        while (!stop) {
            const std::size_t page = random.below(kPages - 64);
            *memory.page(page) = std::byte{1};
            ::madvise(memory.page(page), 64 * kPage,
                      random.below(2) != 0 ? MADV_DONTNEED : MADV_HUGEPAGE);
            if (random.below(8) == 0)
                static_cast<void>(
                    upm.advise(memory.base(), kLen,
                               {.flags = random.below(2) != 0 ? UPM_ADVISE_UNMERGE : 0U}));
        }
    };
    std::thread threads[] = {std::thread(loader, 1), std::thread(loader, 2), std::thread(others)};
    const double end = now() + seconds;
    for (unsigned round = 0; now() < end || round < 10; round++) {
        const pid_t pid = fork_tied();
        if (pid == 0) {
            for (std::size_t i = 0; i < kPages; i++)
                *memory.page(i) ^= std::byte{1};
            ::_exit(0);
        }
        EXPECT_EQ(wait_for(pid), 0);
    }
    stop = true;
    for (std::thread &thread : threads)
        thread.join();
    must(::madvise(memory.base(), kLen, MADV_DONTNEED), "DONTNEED");
    EXPECT_EQ(upm.load(source->fd(), 0, memory.base(), kLen).done, kLen);
    EXPECT_TRUE(source->equal(memory.base(), 0, kLen));
}

TEST_F(LoadsAnd, Races) {
    Process child;
    child.call(&race, &source_, test_seconds(4));
}

// ---- swap ------------------------------------------------------------------------------

class SwapLoads : public LoadsAnd {};

// A page in swap is not empty: it gets its bytes by a copy, and the swapped ones are gone.
TEST_F(SwapLoads, SwappedPagesAreNotEmpty) {
    if (meminfo("SwapTotal") == 0)
        GTEST_SKIP() << "no swap";
    Process child;
    child.call(
        +[](const Source *source) {
            const Mapping memory(kPages * kPage);
            memory.fill({Content::kDistinct, fresh_seed()});
            std::size_t out = 0;
            EXPECT_TRUE(eventually([&] {
                must(::madvise(memory.base(), memory.len(), MADV_PAGEOUT), "MADV_PAGEOUT");
                const auto swapped = swapped_of(0, memory.base(), kPages);
                out = static_cast<std::size_t>(std::count(swapped.begin(), swapped.end(), true));
                return out > kPages / 2;
            }));
            const Device upm;
            const Loaded loaded = upm.load(source->fd(), 0, memory.base(), memory.len());
            EXPECT_EQ(loaded.counts.skipped[UPM_SKIP_PRESENT], kPages);
            EXPECT_TRUE(source->equal(memory.base(), 0, memory.len()));
        },
        &source_);
}

} // namespace

} // namespace upm::test
