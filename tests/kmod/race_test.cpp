// SPDX-License-Identifier: MIT
//
// System calls that change the memory map, on all processors, against advises of the
// same memory: no byte is wrong afterwards, and the kernel log stays clean.
#include "tests/kmod/support/actor.hpp"
#include "tests/kmod/support/advisor.hpp"

#include <atomic>
#include <cstring>
#include <functional>
#include <thread>
#include <vector>

#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

namespace upm::test {

namespace {

constexpr std::size_t kPages = 128;
constexpr unsigned kRounds = 30;

// Advises in a thread of its own while `work` runs in the calling one, for a while
// and a number of rounds. Both in a child, so that threads and forks do not mix.
void race(const Region &region, double seconds, const std::function<void(unsigned)> &work) {
    const Advisor advisor(region);
    const double end = now() + seconds;
    for (unsigned round = 0; now() < end || round < kRounds; round++) {
        work(round);
        if (testing::Test::HasFailure())
            break;
    }
}

class Races : public KmodTest {
  protected:
    // Runs the race in a child.
    static void in_child(void (*function)(double)) {
        Process child;
        child.call(function, test_seconds(2.5));
    }
    static Pattern pattern() { return {Content::kMixed, fresh_seed()}; }
};

TEST_F(Races, DontNeed) {
    in_child(+[](double seconds) {
        Region region(Kind::kAnonymous, pattern(), kPages);
        Random random(1);
        race(region, seconds, [&](unsigned) {
            const std::size_t page = random.below(kPages - 8);
            ASSERT_EQ(::madvise(region.page(page), 8 * kPage, MADV_DONTNEED), 0);
            region.expect_zeros(page, 8);
            ASSERT_EQ(region.first_wrong(), -1);
            for (std::size_t i = page; i < page + 8; i++) {
                region.pattern().fill(i, region.model(i * kPage));
                std::memcpy(region.page(i), region.model(i * kPage), kPage);
            }
            ASSERT_EQ(region.first_wrong(), -1);
        });
    });
}

TEST_F(Races, MunmapAndMap) {
    in_child(+[](double seconds) {
        Region region(Kind::kAnonymous, pattern(), kPages);
        Random random(2);
        race(region, seconds, [&](unsigned) {
            const std::size_t page = random.below(kPages - 8);
            ASSERT_EQ(::munmap(region.page(page), 8 * kPage), 0);
            ASSERT_NE(::mmap(region.page(page), 8 * kPage, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
                      MAP_FAILED);
            for (std::size_t i = page; i < page + 8; i++) {
                region.pattern().fill(i, region.model(i * kPage));
                std::memcpy(region.page(i), region.model(i * kPage), kPage);
            }
            ASSERT_EQ(region.first_wrong(), -1);
        });
    });
}

TEST_F(Races, Mprotect) {
    in_child(+[](double seconds) {
        Region region(Kind::kAnonymous, pattern(), kPages);
        Random random(3);
        race(region, seconds, [&](unsigned round) {
            const std::size_t page = random.below(kPages - 8);
            ASSERT_EQ(::mprotect(region.page(page), 8 * kPage, PROT_READ), 0);
            ASSERT_EQ(::mprotect(region.page(page), 8 * kPage, PROT_READ | PROT_WRITE), 0);
            region.write(page, round);
            ASSERT_EQ(region.first_wrong(), -1);
        });
    });
}

TEST_F(Races, Mremap) {
    in_child(+[](double seconds) {
        Region region(Kind::kAnonymous, pattern(), kPages);
        const Mapping place(16 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS);
        Random random(4);
        race(region, seconds, [&](unsigned round) {
            // Always one of the same parts: a part of two mappings cannot be moved,
            // and what was moved once may stay a mapping of its own.
            const std::size_t page = 16 * random.below(kPages / 16);
            std::byte *here = region.page(page);
            ASSERT_EQ(
                ::mremap(here, 16 * kPage, 16 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, place.base()),
                place.base());
            ASSERT_EQ(std::memcmp(place.base(), region.model(page * kPage), 16 * kPage), 0);
            ASSERT_EQ(
                ::mremap(place.base(), 16 * kPage, 16 * kPage, MREMAP_MAYMOVE | MREMAP_FIXED, here),
                here);
            region.write(page, round);
            ASSERT_EQ(region.first_wrong(), -1);
        });
    });
}

// Forks while advises run: the child's memory is a snapshot, the parent's goes on.
TEST_F(Races, Fork) {
    in_child(+[](double seconds) {
        Region region(Kind::kAnonymous, pattern(), kPages);
        Random random(5);
        race(region, seconds, [&](unsigned round) {
            for (int i = 0; i < 10; i++)
                region.write(random.below(kPages), round);
            const pid_t pid = fork_tied();
            if (pid == 0) {
                bool good = region.first_wrong() == -1;
                for (std::size_t i = 0; i < kPages; i += 3)
                    region.write(i, ~round);
                good = good && region.first_wrong() == -1;
                ::_exit(good ? 0 : 1);
            }
            for (int i = 0; i < 10; i++)
                region.write(random.below(kPages), round + 1);
            ASSERT_EQ(wait_for(pid), 0);
            ASSERT_EQ(region.first_wrong(), -1);
        });
    });
}

TEST_F(Races, MlockAndUnmerge) {
    in_child(+[](double seconds) {
        Region region(Kind::kAnonymous, pattern(), kPages);
        const Device upm;
        race(region, seconds, [&](unsigned round) {
            ASSERT_EQ(::mlock(region.page(8), 32 * kPage), 0);
            EXPECT_EQ(upm.unmerge(region.base(), region.len()).error, 0);
            region.write(round % kPages, round);
            ASSERT_EQ(::munlock(region.page(8), 32 * kPage), 0);
            ASSERT_EQ(region.first_wrong(), -1);
        });
    });
}

// Moves a thread to the next processor again and again, as long as the object lives.
class Mover {
  public:
    explicit Mover(pid_t tid)
        : thread_([this, tid] {
              const long processors = ::sysconf(_SC_NPROCESSORS_ONLN);
              for (long next = 0; !stop_; next = (next + 1) % processors) {
                  cpu_set_t there;
                  CPU_ZERO(&there);
                  CPU_SET(static_cast<std::size_t>(next), &there);
                  EXPECT_EQ(::sched_setaffinity(tid, sizeof(there), &there), 0);
              }
          }) {}
    ~Mover() {
        stop_ = true;
        thread_.join();
    }
    Mover(const Mover &) = delete;
    Mover &operator=(const Mover &) = delete;

  private:
    std::atomic<bool> stop_{false};
    std::thread thread_;
};

// The kernel collects pages in lists of each processor, with a reference: those that it
// unmaps from locked memory, and that of a file by which a mapping is prepared. A call that
// comes to another processor in the middle leaves none of them behind, to be busy there.
// Only a kernel that preempts itself moves it: the debug kernel, or one with preempt=full.
TEST_F(Races, ACallThatIsMoved) {
    constexpr unsigned kMoves = 10; // rounds, at least: each is slow
    for (const Kind kind : {Kind::kLocked, Kind::kMemfd}) {
        Process child;
        child.call(
            +[](double seconds, Kind k) {
                const Device upm;
                const Pattern known = pattern();
                const Region keeper(Kind::kAnonymous, known, kPages);
                EXPECT_EQ(upm.advise(keeper.base(), keeper.len()).done(), kPages);
                const Mover mover(::gettid());
                const double end = now() + seconds;
                for (unsigned round = 0; now() < end || round < kMoves; round++) {
                    const Region region(k, known, kPages);
                    const Advice advice = upm.advise(region.base(), region.len());
                    ASSERT_EQ(advice.done(), kPages)
                        << k << ": " << advice.skipped(UPM_SKIP_BUSY) << " were busy";
                    ASSERT_EQ(region.first_wrong(), -1);
                }
            },
            test_seconds(2.5), kind);
    }
}

// Huge pages made, split and dropped under the advise.
TEST_F(Races, HugePages) {
    in_child(+[](double seconds) {
        constexpr std::size_t kHuge = kHugePage / kPage;
        Region region(Kind::kHuge, pattern(), kHuge);
        race(region, seconds, [&](unsigned) {
            ASSERT_EQ(::madvise(region.base(), region.len(), MADV_DONTNEED), 0);
            for (std::size_t i = 0; i < kHuge; i++)
                std::memcpy(region.page(i), region.model(i * kPage), kPage);
            ASSERT_EQ(region.first_wrong(), -1);
        });
    });
}

// The kernel moves pages about for reasons of its own.
TEST_F(Races, Compaction) {
    in_child(+[](double seconds) {
        Region region(Kind::kAnonymous, pattern(), kPages);
        race(region, seconds, [&](unsigned round) {
            region.write(round % kPages, round);
            if (round % 4 == 0)
                write_file("/proc/sys/vm/compact_memory", "1");
            if (round % 16 == 0)
                write_file("/proc/sys/vm/drop_caches", "3");
            ASSERT_EQ(region.first_wrong(), -1);
        });
    });
}

// Threads of one process, each with a part of its own, and all with the whole.
TEST_F(Races, ManyAdvisors) {
    in_child(+[](double seconds) {
        constexpr std::size_t kThreads = 6;
        Region region(Kind::kAnonymous, pattern(), kThreads * 32);
        const Device upm;
        std::vector<std::thread> threads;
        const double end = now() + seconds;
        for (std::size_t i = 0; i < kThreads; i++) {
            threads.emplace_back([&, i] {
                Random random(i);
                for (unsigned round = 0; now() < end || round < kRounds; round++) {
                    EXPECT_EQ(upm.advise(region.page(32 * i), 32 * kPage).error, 0);
                    region.write(32 * i + random.below(32), round);
                    const std::size_t page = random.below(region.pages() - 40);
                    EXPECT_EQ(upm.advise(region.page(page), 40 * kPage).error, 0);
                    region.write(32 * i + random.below(32), round);
                }
            });
        }
        for (std::thread &thread : threads)
            thread.join();
        region.check();
    });
}

// Knobs and sweeps change while calls run.
TEST_F(Races, KnobsAndSweeps) {
    const Knob batch("batch_pages", 256);
    const Knob files("file_pages", 1);
    const Knob sweeping("sweep_ms", 10);
    Process child;
    child.start(
        +[](double seconds) {
            Region region(Kind::kAnonymous, pattern(), kPages);
            race(region, seconds, [&](unsigned round) {
                for (std::size_t i = 0; i < kPages; i += 2)
                    region.write(i, round);
                ASSERT_EQ(region.first_wrong(), -1);
            });
        },
        test_seconds(2.5));
    const double end = now() + test_seconds(2.5);
    for (unsigned round = 0; now() < end || round < kRounds; round++) {
        EXPECT_EQ(write_file(kSysfs + "batch_pages", round % 2 == 0 ? "3" : "512"), 0);
        EXPECT_EQ(write_file(kSysfs + "file_pages", round % 3 == 0 ? "1" : "0"), 0);
        sweep();
        read_file(kSysfs + "pages_sharing");
    }
    child.finish<void>();
}

} // namespace

} // namespace upm::test
