// SPDX-License-Identifier: MIT
//
// Shared pages whose frame gets a memory error: nobody comes to share them any more, and who
// has them gets what users of a plain page get.
#include "tests/kmod/support/actor.hpp"

#include <csignal>
#include <cstring>

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

namespace upm::test {

namespace {

constexpr std::size_t kPages = 16;
constexpr std::size_t kBad = 3;
constexpr unsigned kFlagHwpoison = 19;

class MemoryError : public KmodTest {};

// In the actor: says to the kernel that the frame of a page has an error. A child does it,
// since some kernels (6.12) send SIGBUS at once to who does.
void poison() {
    const pid_t pid = fork_tied();
    if (pid == 0) {
        ::madvise(region().page(kBad), kPage, MADV_HWPOISON);
        ::_exit(0);
    }
    wait_for(pid);
}

// In the actor: what a child of it meets that reads the page. Its wait status; it exits
// with 0 if the bytes are right.
int read_in_child() {
    const pid_t pid = fork_tied();
    if (pid == 0) {
        Region &r = region();
        ::_exit(std::memcmp(r.page(kBad), r.model(kBad * kPage), kPage) == 0 ? 0 : 1);
    }
    return wait_for(pid);
}

int write_in_child() {
    const pid_t pid = fork_tied();
    if (pid == 0) {
        *region().page(kBad) = std::byte{1};
        ::_exit(0);
    }
    return wait_for(pid);
}

// In the actor: pages other than the bad one that do not hold what they should.
std::size_t wrong_elsewhere() {
    Region &r = region();
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < r.pages(); i++)
        if (i != kBad && std::memcmp(r.page(i), r.model(i * kPage), kPage) != 0)
            wrong++;
    return wrong;
}

bool ended_by(int status, int signal) {
    return WIFSIGNALED(status) && WTERMSIG(status) == signal;
}

// A frame with a memory error goes to nobody who has not got it. Its content gets another
// frame, which later ones share.
TEST_F(MemoryError, IsNotHandedOn) {
    const Pattern pattern{Content::kDistinct, fresh_seed()};
    Actor a(Kind::kAnonymous, pattern, kPages);
    Actor b(Kind::kAnonymous, pattern, kPages);
    Actor c(Kind::kAnonymous, pattern, kPages);
    const Knob no_sweep("sweep_ms", 0); // the frame stays mapped
    EXPECT_EQ(a.advise().counts.inserted, kPages);
    a.call(&poison);
    const Frames before = a.frames();
    if (!frame_has(before[kBad], kFlagHwpoison))
        GTEST_SKIP() << "MADV_HWPOISON marks nothing here";
    const Advice first = b.advise();
    EXPECT_EQ(first.counts.inserted, 1U);
    EXPECT_EQ(first.counts.merged, kPages - 1);
    EXPECT_EQ(equal_frames(before, b.frames()), kPages - 1);
    EXPECT_NE(b.frames()[kBad], before[kBad]);
    EXPECT_EQ(c.advise().counts.merged, kPages);
    EXPECT_EQ(equal_frames(b.frames(), c.frames()), kPages);
    b.check();
    c.check();
}

// Who maps it gets SIGBUS at the next access, as with a plain page: reading or writing, also
// in a child of before, and in a process that never heard of the error. All other pages
// stay, and the place can be used again.
TEST_F(MemoryError, UsersOfAnonymousMemoryGetSigbus) {
    for (const Kind kind : {Kind::kAnonymous, Kind::kHuge, Kind::kLocked, Kind::kReadOnly}) {
        const std::size_t pages = kind == Kind::kHuge ? pages_of(kind) : kPages;
        const Pattern pattern{Content::kDistinct, fresh_seed()};
        Actor plain(Kind::kAnonymous, pattern, kPages);
        Actor a(kind, pattern, pages);
        Actor b(kind, pattern, pages);
        plain.call(&poison);
        const int expected = plain.call(&read_in_child);
        if (!ended_by(expected, SIGBUS))
            GTEST_SKIP() << "MADV_HWPOISON does nothing here";
        EXPECT_EQ(a.advise().done(), pages);
        EXPECT_EQ(b.advise().counts.merged, pages);
        a.call(&poison);
        sweep();
        for (Actor *actor : {&a, &b}) {
            EXPECT_EQ(actor->frames()[kBad], 0U) << kind;
            EXPECT_EQ(present_frames(actor->frames()), pages - 1);
            EXPECT_EQ(actor->call(&wrong_elsewhere), 0U);
            EXPECT_EQ(actor->call(&read_in_child), expected) << kind;
            actor->allow_writes();
            EXPECT_TRUE(ended_by(actor->call(&write_in_child), SIGBUS)) << kind;
            EXPECT_EQ(actor->advise().counts.already, pages - 1) << kind;
        }
        a.call(+[] {
            Region &r = region();
            // Also of locked memory: munlock does nothing with CONFIG_DEBUG_VM (merge.c).
            must(::madvise(r.page(kBad), kPage, MADV_DONTNEED_LOCKED), "MADV_DONTNEED_LOCKED");
            r.expect_zeros(kBad, 1);
            r.check();
        });
        a.write(kBad, 7);
        a.check();
        sweep();
        EXPECT_EQ(b.call(&wrong_elsewhere), 0U);
    }
}

// Of a file only clean pages merge: so they are read again.
TEST_F(MemoryError, UsersOfAFileReadItAgain) {
    for (const Kind kind : {Kind::kFileClean, Kind::kText}) {
        const Pattern pattern{Content::kDistinct, fresh_seed()};
        Actor a(kind, pattern, kPages);
        Actor b(kind, pattern, kPages);
        EXPECT_EQ(a.advise().counts.inserted, kPages);
        EXPECT_EQ(b.advise().counts.merged, kPages);
        const std::uint64_t bad = a.frames()[kBad];
        a.call(&poison);
        if (!frame_has(bad, kFlagHwpoison))
            GTEST_SKIP() << "MADV_HWPOISON marks nothing here";
        sweep();
        for (Actor *actor : {&a, &b}) {
            actor->check();
            EXPECT_NE(actor->frames()[kBad], bad);
            EXPECT_EQ(actor->advise().done(), kPages);
            EXPECT_NE(actor->frames()[kBad], bad);
            actor->check();
        }
        EXPECT_EQ(equal_frames(a.frames(), b.frames()), kPages);
    }
}

// The periodic sweep does it, too, also for a child that was forked after the error.
TEST_F(MemoryError, IsFoundWithoutAsking) {
    const Knob often("sweep_ms", 20);
    Actor a(Kind::kAnonymous, {Content::kDistinct, fresh_seed()}, kPages);
    EXPECT_EQ(a.advise().counts.inserted, kPages);
    const std::uint64_t bad = a.frames()[kBad];
    a.call(&poison);
    if (!frame_has(bad, kFlagHwpoison))
        GTEST_SKIP() << "MADV_HWPOISON marks nothing here";
    const int status = a.call(+[] {
        const pid_t pid = fork_tied();
        if (pid == 0) {
            const bool gone =
                eventually([] { return frames_of(0, region().page(kBad), 1).front() == 0; });
            ::_exit(gone ? 0 : 1);
        }
        return wait_for(pid);
    });
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
    EXPECT_TRUE(eventually([&] { return a.frames()[kBad] == 0; }));
    EXPECT_EQ(a.call(&wrong_elsewhere), 0U);
}

} // namespace

} // namespace upm::test
