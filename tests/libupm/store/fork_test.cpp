// SPDX-License-Identifier: MIT
//
// Memory that processes share since one forked the other is shared already: a copy of it
// in a segment would take memory, and give none back while the others keep theirs.
#include "tests/libupm/store/fixture.hpp"

#include <csignal>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

namespace upm::test {

namespace {

// A child that has what its parent had, until it is told to end.
class Sharer {
  public:
    Sharer() {
        if (::pipe(pipe_) != 0)
            throw std::runtime_error("pipe");
        child_ = ::fork();
        if (child_ == 0) {
            char end = 0;
            (void)::close(pipe_[1]);
            ::_exit(::read(pipe_[0], &end, 1) == 0 ? 0 : 1);
        }
        (void)::close(pipe_[0]);
    }
    Sharer(const Sharer &) = delete;
    Sharer &operator=(const Sharer &) = delete;
    ~Sharer() { end(); }

    void end() {
        if (child_ <= 0)
            return;
        (void)::close(pipe_[1]);
        (void)::waitpid(child_, nullptr, 0);
        child_ = -1;
    }

  private:
    int pipe_[2] = {};
    pid_t child_ = -1;
};

class StoreFork : public StoreTest {
  protected:
    [[nodiscard]] std::uint64_t pages_in_segments() {
        struct upm_stats stats {};
        EXPECT_EQ(backend.stats(-1, stats), 0);
        return stats.pages_shared + stats.pages_unused;
    }
};

TEST_F(StoreFork, WhatAForkSharesIsNotInserted) {
    const Pages pages(1500);
    fill_pattern(pages, 1);
    ASSERT_EQ(open(), 0) << text;
    Sharer child;
    // One page is the parent's alone since it was written to.
    pages.page(3)[0] ^= 1;
    pages.page(3)[0] ^= 1;
    ASSERT_EQ(advise(pages), 0);
    EXPECT_EQ(counts.inserted, 1U);
    EXPECT_EQ(counts.skipped[UPM_SKIPPED_BUSY], 1499U);
    EXPECT_EQ(pages_in_segments(), 1U);
    EXPECT_TRUE(has_pattern(pages, 1));
    // Neither does the child, which the memory belongs to as much.
    EXPECT_EQ(in_child([&] { return advise(pages) == 0 && counts.inserted == 0 ? 0 : 1; }), 0);
    EXPECT_EQ(pages_in_segments(), 1U);
    child.end();
    ASSERT_EQ(advise(pages), 0);
    EXPECT_EQ(counts.inserted, 1499U) << "nobody shares it any more";
    EXPECT_TRUE(has_pattern(pages, 1));
}

// That gives the parent's page back, or will when the child lets go: no memory is taken.
TEST_F(StoreFork, WhatIsKnownIsMerged) {
    insert_elsewhere(1500, 2);
    const Pages pages(1500);
    fill_pattern(pages, 2);
    pages.page(700)[0] ^= 1; // known to nobody
    ASSERT_EQ(open(), 0) << text;
    const Sharer child;
    ASSERT_EQ(advise(pages), 0);
    EXPECT_EQ(counts.merged, 1499U);
    EXPECT_EQ(counts.inserted, 0U);
    EXPECT_EQ(counts.skipped[UPM_SKIPPED_BUSY], 1U);
    EXPECT_EQ(pages_in_segments(), 1500U);
}

// Known content that no run of successors leads to: it is asked for, but not reserved.
TEST_F(StoreFork, SinglePagesThatAreKnown) {
    insert_elsewhere(40, 3);
    const Pages pages(40);
    fill_pattern(pages, 3);
    for (std::size_t i = 0; i < 40; i += 2)
        pages.page(i)[8] ^= 1;
    ASSERT_EQ(open(), 0) << text;
    const Sharer child;
    ASSERT_EQ(advise(pages), 0);
    EXPECT_EQ(counts.merged, 20U);
    EXPECT_EQ(counts.inserted, 0U);
    EXPECT_EQ(counts.skipped[UPM_SKIPPED_BUSY], 20U);
}

} // namespace

} // namespace upm::test
