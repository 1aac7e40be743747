// SPDX-License-Identifier: MIT
//
// A call that brings a gate (Call::gate): it waits for the broker outside, and touches
// nothing once it may not come in again.
#include "tests/libupm/store/fixture.hpp"

#include <atomic>
#include <csignal>
#include <cstring>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>

namespace upm::test {

namespace {

// Does not open again after it was left for the `last`th time, which is when somebody
// takes the memory away: who touches it then dies.
class ClosingGate final : public Gate {
  public:
    ClosingGate(const Pages &pages, unsigned last) : pages_(pages), last_(last) {}

    bool enter() noexcept override {
        inside_ = !closed_;
        return inside_;
    }
    bool leave() noexcept override {
        if (!inside_)
            return false;
        inside_ = false;
        if (++left_ == last_) {
            closed_ = true;
            (void)::mprotect(pages_.data(), pages_.size(), PROT_NONE);
        }
        return true;
    }
    bool breathe() noexcept override { return leave() && enter(); }
    [[nodiscard]] bool over() const noexcept override { return closed_; }

    [[nodiscard]] bool inside() const { return inside_; }
    [[nodiscard]] bool closed() const { return closed_; }

  private:
    const Pages &pages_;
    unsigned last_;
    unsigned left_ = 0;
    std::atomic<bool> inside_{false};
    std::atomic<bool> closed_{false};
};

// Something else writes to the memory, without its page tables, once it was frozen so often.
class OpenGate final : public Gate {
  public:
    explicit OpenGate(unsigned alone) : alone_(alone) {}
    bool enter() noexcept override { return true; }
    bool leave() noexcept override { return true; }
    bool breathe() noexcept override { return true; }
    [[nodiscard]] bool over() const noexcept override { return false; }
    [[nodiscard]] bool sole_writer() noexcept override { return asked_++ < alone_; }

    [[nodiscard]] unsigned asked() const { return asked_; }

  private:
    unsigned alone_;
    unsigned asked_ = 0;
};

class StoreGate : public StoreTest {
  protected:
    int advise_by(const Pages &pages, Gate &gate) {
        return call({.addr = reinterpret_cast<std::uint64_t>(pages.data()),
                     .len = pages.size(),
                     .quiescent = true,
                     .gate = &gate});
    }
};

constexpr std::size_t kPages = 2048; // four batches
constexpr unsigned kNever = 1000;

// Closed at each point where the call is outside, one after the other.
TEST_F(StoreGate, WhatItMayNotEnterItDoesNotTouch) {
    ASSERT_EQ(open(), 0) << text;
    unsigned closed = 0;
    for (unsigned last = 1; last < kNever; ++last) {
        const Pages pages(kPages);
        fill_pattern(pages, last);
        ClosingGate gate(pages, last);
        const int ret = advise_by(pages, gate);
        EXPECT_FALSE(gate.inside()) << last;
        if (!gate.closed()) {
            EXPECT_EQ(ret, 0);
            EXPECT_TRUE(has_pattern(pages, last));
            break;
        }
        ++closed;
        // The last time that it leaves is at its end, when all is done.
        EXPECT_TRUE(ret == -ECANCELED || ret == 0) << last << ": " << ret;
        ASSERT_EQ(::mprotect(pages.data(), pages.size(), PROT_READ | PROT_WRITE), 0);
        EXPECT_TRUE(has_pattern(pages, last)) << last;
    }
    EXPECT_GT(closed, 4U) << "it was outside hardly ever";
    // What it had reserved was given up: the next one may publish.
    const Pages pages(kPages);
    fill_pattern(pages, 2);
    ASSERT_EQ(advise(pages), 0);
    EXPECT_EQ(counts.merged + counts.inserted, kPages);
}

// A ring that pinned pages between the look at descriptors and the freeze writes to the old
// ones. It is asked for once in each freeze, for known content and for new one.
TEST_F(StoreGate, WhatOthersWriteToStays) {
    insert_elsewhere(kPages, 1);
    ASSERT_EQ(open(), 0) << text;
    for (const unsigned seed : {1U, 2U}) {
        const Pages pages(kPages);
        fill_pattern(pages, seed);
        OpenGate gate(0);
        EXPECT_EQ(advise_by(pages, gate), 0);
        EXPECT_EQ(counts.merged + counts.inserted + counts.zero, 0U) << seed;
        EXPECT_EQ(counts.skipped[UPM_SKIPPED_BUSY], kPages) << seed;
        EXPECT_GE(gate.asked(), 4U) << seed;
        EXPECT_TRUE(has_pattern(pages, seed));
        OpenGate later(1);
        EXPECT_EQ(advise_by(pages, later), 0);
        EXPECT_GT(counts.merged + counts.inserted, 0U) << seed;
        EXPECT_LT(counts.merged + counts.inserted, kPages) << seed;
        EXPECT_TRUE(has_pattern(pages, seed));
    }
}

// What it writes to may be zeros yet.
TEST_F(StoreGate, WhatOthersWriteToIsNotDropped) {
    ASSERT_EQ(open(), 0) << text;
    const Pages pages(kPages);
    std::memset(pages.data(), 0, pages.size());
    OpenGate gate(0);
    EXPECT_EQ(advise_by(pages, gate), 0);
    EXPECT_EQ(counts.zero, 0U);
    EXPECT_EQ(counts.skipped[UPM_SKIPPED_BUSY], kPages);
    OpenGate later(1);
    EXPECT_EQ(advise_by(pages, later), 0);
    EXPECT_GT(counts.zero, 0U);
    EXPECT_LT(counts.zero, kPages);
}

// The same for content that is known.
TEST_F(StoreGate, NorWhenItCompares) {
    insert_elsewhere(kPages, 1);
    ASSERT_EQ(open(), 0) << text;
    for (unsigned last = 1; last < kNever; ++last) {
        const Pages pages(kPages);
        fill_pattern(pages, 1);
        ClosingGate gate(pages, last);
        const int ret = advise_by(pages, gate);
        ASSERT_EQ(::mprotect(pages.data(), pages.size(), PROT_READ | PROT_WRITE), 0);
        EXPECT_TRUE(has_pattern(pages, 1)) << last;
        EXPECT_TRUE(ret == -ECANCELED || ret == 0) << last << ": " << ret;
        if (!gate.closed())
            break;
        ASSERT_LT(last, kNever - 1);
    }
}

TEST_F(StoreGate, ItWaitsOutside) {
    ASSERT_EQ(open(), 0) << text;
    const Pages pages(kPages);
    fill_pattern(pages, 1);
    ClosingGate gate(pages, kNever);
    ASSERT_EQ(::kill(broker.pid(), SIGSTOP), 0);
    std::thread other([&] {
        constexpr useconds_t kLong = 300'000;
        (void)::usleep(kLong);
        EXPECT_FALSE(gate.inside());
        EXPECT_EQ(::kill(broker.pid(), SIGCONT), 0);
    });
    EXPECT_EQ(advise_by(pages, gate), 0);
    other.join();
    EXPECT_FALSE(gate.inside());
    EXPECT_EQ(counts.inserted, kPages);
}

// The kernel may take long to find memory.
TEST_F(StoreGate, ItFindsMemoryOutside) {
    ASSERT_EQ(open(), 0) << text;
    const Pages pages(100);
    fill_pattern(pages, 1);
    ClosingGate gate(pages, kNever);
    unsigned times = 0;
    while_allocating = [&] {
        EXPECT_FALSE(gate.inside());
        ++times;
    };
    EXPECT_EQ(advise_by(pages, gate), 0);
    while_allocating = nullptr;
    EXPECT_GT(times, 0U);
    EXPECT_EQ(counts.inserted, 100U);
}

} // namespace

} // namespace upm::test
