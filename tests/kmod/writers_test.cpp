// SPDX-License-Identifier: MIT
//
// Writers that never stop while their memory is merged again and again: not one
// update may be lost. The most important test of all, so it has several shapes.
#include "tests/kmod/support/actor.hpp"

#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

namespace upm::test {

namespace {

constexpr std::size_t kPages = 192;
constexpr std::size_t kSlots = 8;   // words of a page that a writer owns, at most
constexpr std::size_t kWriters = 3; // threads
constexpr unsigned kRounds = 12;    // advises at least, however fast the clock runs

// The words of one writer: one in each page, at a place of its own.
class Owner {
  public:
    Owner(std::byte *base, std::size_t writer) : base_(base), writer_(writer), count_(kPages) {
        for (std::size_t page = 0; page < kPages; page++)
            store(page, 0);
    }

    // Reads a word, which must be what was written last, and writes the next.
    bool step(std::size_t page) {
        if (load(page) != count_[page])
            return false;
        store(page, ++count_[page]);
        return true;
    }
    [[nodiscard]] bool all_right() const {
        for (std::size_t page = 0; page < kPages; page++)
            if (load(page) != count_[page])
                return false;
        return true;
    }
    [[nodiscard]] std::uint64_t steps() const {
        std::uint64_t sum = 0;
        for (const std::uint64_t n : count_)
            sum += n;
        return sum;
    }

  private:
    [[nodiscard]] std::byte *at(std::size_t page) const {
        return base_ + page * kPage + writer_ * 512 + 8 * (page % kSlots);
    }
    [[nodiscard]] std::uint64_t load(std::size_t page) const {
        std::uint64_t value = 0;
        std::memcpy(&value, at(page), sizeof(value));
        return value;
    }
    void store(std::size_t page, std::uint64_t value) const {
        std::memcpy(at(page), &value, sizeof(value));
    }

    std::byte *base_;
    std::size_t writer_;
    std::vector<std::uint64_t> count_; // what the words must be; never advised
};

struct Result {
    std::uint64_t updates = 0;
    std::uint64_t rounds = 0;
    std::uint64_t merged = 0;
};

// Advises `mapping` until the time is up, and until it was done often enough.
void advise_for(const Mapping &mapping, double seconds, Result &result) {
    const Device upm;
    const double end = now() + seconds;
    while (now() < end || result.rounds < kRounds) {
        const Advice advice = upm.advise(mapping.base(), mapping.len());
        ASSERT_EQ(advice.error, 0);
        result.merged += advice.counts.merged + advice.counts.inserted;
        result.rounds++;
    }
}

// Threads write into private memory of a kind while another advises it.
Result write_and_advise(Mapping &mapping, double seconds) {
    std::vector<Owner> owners;
    for (std::size_t i = 0; i < kWriters; i++)
        owners.emplace_back(mapping.base(), i);
    auto *shared = reinterpret_cast<std::uint64_t *>(mapping.page(kPages / 2) + 4088);
    *shared = 0;
    std::atomic<bool> stop{false};
    std::atomic<std::uint64_t> added{0};
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < kWriters; i++) {
        threads.emplace_back([&, i] {
            Random random(i + 1);
            while (!stop) {
                for (int burst = 0; burst < 64; burst++)
                    ASSERT_TRUE(owners[i].step(random.below(kPages))) << "lost update";
                // All of them on one word: an atomic sum.
                std::atomic_ref(*shared).fetch_add(1);
                added++;
            }
        });
    }
    Result result;
    advise_for(mapping, seconds, result);
    stop = true;
    for (std::thread &thread : threads)
        thread.join();
    for (const Owner &owner : owners) {
        EXPECT_TRUE(owner.all_right());
        result.updates += owner.steps();
    }
    EXPECT_EQ(*shared, added.load());
    return result;
}

class Writers : public KmodTest {};

Mapping prepared(Kind kind) {
    if (kind == Kind::kHuge)
        return Mapping::huge(kHugePage);
    return Mapping(kPages * kPage);
}

void run_writers(Kind kind, double seconds) {
    Process child;
    const Result result = child.call(
        +[](Kind k, double s) {
            Mapping mapping = prepared(k);
            return write_and_advise(mapping, s);
        },
        kind, seconds);
    EXPECT_GT(result.merged, 0U);
    std::cout << name_of(kind) << ": " << result.updates << " updates, " << result.rounds
              << " advises, " << result.merged << " pages merged\n";
}

TEST_F(Writers, Anonymous) {
    run_writers(Kind::kAnonymous, test_seconds(6));
}
TEST_F(Writers, HugePages) {
    run_writers(Kind::kHuge, test_seconds(3));
}

// Pages of a file: the first write to each makes a private copy, just when the advise
// may be about to merge it. So every round begins with a new mapping.
TEST_F(Writers, FilePages) {
    Process child;
    child.call(
        +[](double seconds) {
            const Pattern pattern{Content::kMixed, fresh_seed()};
            const Fd file = temporary_file(pattern, kPages);
            const Device upm;
            std::uint64_t merged = 0;
            const double end = now() + seconds;
            for (unsigned round = 0; now() < end || round < kRounds; round++) {
                const Mapping mapping(kPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE,
                                      file.get());
                for (std::size_t page = 0; page < kPages; page++) // map it, for reading
                    static_cast<void>(*static_cast<volatile std::byte *>(mapping.page(page)));
                std::thread writer([&] {
                    for (std::size_t page = round % 3; page < kPages; page += 3)
                        std::memset(mapping.page(page) + 100, static_cast<int>(round), 100);
                });
                const Advice advice = upm.advise(mapping.base(), mapping.len());
                merged += advice.counts.merged + advice.counts.inserted;
                writer.join();
                std::array<std::byte, kPage> wanted{};
                for (std::size_t page = 0; page < kPages; page++) {
                    pattern.fill(page, wanted.data());
                    if (page % 3 == round % 3)
                        std::memset(wanted.data() + 100, static_cast<int>(round), 100);
                    ASSERT_EQ(std::memcmp(mapping.page(page), wanted.data(), kPage), 0)
                        << "round " << round << ", page " << page;
                }
            }
            EXPECT_GT(merged, 0U);
        },
        test_seconds(3));
}

// The page by which the module gives a mapping of a file its anon_vma is a private copy
// for a moment: what is written then must not go with it. The writer looks back at what
// it wrote just before.
TEST_F(Writers, FirstFilePage) {
    Process child;
    child.call(
        +[](double seconds) {
            constexpr std::size_t kWords = kPage / sizeof(std::uint64_t);
            const Fd file = temporary_file({Content::kDistinct, fresh_seed()}, 1);
            const Device upm;
            Random random(5);
            const double end = now() + seconds;
            for (unsigned round = 0; now() < end || round < kRounds; round++) {
                const Mapping mapping(kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE, file.get());
                static_cast<void>(*static_cast<volatile std::byte *>(mapping.page(0)));
                auto *slots = reinterpret_cast<volatile std::uint64_t *>(mapping.page(0));
                std::atomic<bool> ready{false};
                std::atomic<bool> stop{false};
                std::uint64_t lost = 0;
                // It begins while the advise runs: before, the page would be private.
                const std::size_t delay = random.below(20'000);
                std::thread writer([&] {
                    ready = true;
                    for (std::size_t spin = 0; spin < delay; ++spin)
                        std::atomic_signal_fence(std::memory_order_seq_cst);
                    for (std::uint64_t n = 1; !stop; n++) {
                        slots[n % kWords] = n;
                        lost += n > 1 && slots[(n - 1) % kWords] != n - 1 ? 1 : 0;
                    }
                });
                while (!ready) {
                }
                EXPECT_EQ(upm.advise(mapping.base(), mapping.len()).error, 0);
                stop = true;
                writer.join();
                ASSERT_EQ(lost, 0U) << "round " << round;
            }
        },
        test_seconds(3));
}

// Small batches mean many more moments at which a batch begins and ends.
TEST_F(Writers, SmallBatches) {
    const Knob knob("batch_pages", 7);
    run_writers(Kind::kAnonymous, test_seconds(3));
}

// The advise comes from another process, with no part in the writers' locks.
TEST_F(Writers, AdvisedByAnother) {
    const Mapping place(kPages * kPage); // the same address in the child
    Process child;
    child.start(
        +[](std::byte *base, double seconds) {
            std::vector<Owner> owners;
            for (std::size_t i = 0; i < 2; i++)
                owners.emplace_back(base, i);
            std::vector<std::thread> threads;
            const double end = now() + seconds;
            for (std::size_t i = 0; i < owners.size(); i++) {
                threads.emplace_back([&, i] {
                    Random random(i + 1);
                    for (std::uint64_t n = 0; now() < end || n < 200; n++)
                        for (int burst = 0; burst < 64; burst++)
                            ASSERT_TRUE(owners[i].step(random.below(kPages))) << "lost update";
                });
            }
            for (std::thread &thread : threads)
                thread.join();
            for (const Owner &owner : owners)
                EXPECT_TRUE(owner.all_right());
        },
        place.base(), test_seconds(4));
    const Device upm;
    const double end = now() + test_seconds(4);
    for (unsigned round = 0; now() < end || round < kRounds; round++)
        EXPECT_EQ(upm.advise(place.base(), place.len(), {.pid = child.pid()}).error, 0);
    child.finish<void>();
}

// Writes by system calls, into the memory that is being merged.
TEST_F(Writers, SystemCalls) {
    Process child;
    child.call(
        +[](double seconds) {
            const Mapping mapping(kPages * kPage);
            mapping.fill({Content::kMixed, fresh_seed()});
            std::atomic<bool> stop{false};
            std::thread writer([&] {
                std::array<int, 2> ends{};
                must(::pipe(ends.data()), "pipe");
                Random random(1);
                for (std::uint64_t n = 1; !stop; n++) {
                    std::byte *to = mapping.page(random.below(kPages - 1)) + kPage - 64;
                    std::array<std::uint64_t, 16> words{};
                    words.fill(n);
                    ASSERT_EQ(::write(ends[1], words.data(), sizeof(words)), 128);
                    ASSERT_EQ(::read(ends[0], to, sizeof(words)), 128);
                    ASSERT_EQ(std::memcmp(to, words.data(), sizeof(words)), 0) << "lost read(2)";
                    words.fill(n + 1);
                    const iovec local{.iov_base = words.data(), .iov_len = sizeof(words)};
                    const iovec remote{.iov_base = to, .iov_len = sizeof(words)};
                    ASSERT_EQ(::process_vm_writev(::getpid(), &local, 1, &remote, 1, 0), 128);
                    ASSERT_EQ(std::memcmp(to, words.data(), sizeof(words)), 0) << "lost writev";
                }
            });
            Result result;
            advise_for(mapping, seconds, result);
            stop = true;
            writer.join();
        },
        test_seconds(4));
}

// Two processes with the same content, both writing and both advising: what one
// writes must never be seen by the other.
TEST_F(Writers, TwoProcesses) {
    std::vector<Process> children(2);
    const std::uint64_t seed = fresh_seed();
    for (std::uint64_t child = 0; child < children.size(); child++)
        children[child].start(
            +[](std::uint64_t common, std::uint64_t me, double seconds) {
                Region region(Kind::kAnonymous, {Content::kMixed, common}, kPages);
                const Device upm;
                Random random(me + 1);
                const double end = now() + seconds;
                for (unsigned round = 0; now() < end || round < kRounds; round++) {
                    EXPECT_EQ(upm.advise(region.base(), region.len()).error, 0);
                    for (int i = 0; i < 30; i++)
                        region.write(random.below(kPages), (round << 1) | me);
                    ASSERT_EQ(region.first_wrong(), -1) << "round " << round;
                    // And back, so that there is something to share again.
                    for (std::size_t page = 0; page < kPages; page++) {
                        region.pattern().fill(page, region.model(page * kPage));
                        std::memcpy(region.page(page), region.model(page * kPage), kPage);
                    }
                }
            },
            seed, child, test_seconds(4));
    for (Process &process : children)
        process.finish<void>();
}

} // namespace

} // namespace upm::test
