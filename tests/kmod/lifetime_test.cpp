// SPDX-License-Identifier: MIT
//
// Processes come and go, in any order: fork, exec, exit and kill.
#include "tests/kmod/support/actor.hpp"

#include <algorithm>
#include <csignal>
#include <iterator>

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

namespace upm::test {

namespace {

class Lifetime : public KindTest {};
UPM_TEST_ALL_KINDS(Lifetime);

// Forks in the actor; the child checks, writes everywhere and checks again.
// Returns the wait status.
int fork_check_write() {
    const pid_t pid = fork_tied();
    if (pid == 0) {
        Region &r = region();
        r.check();
        r.allow_writes();
        for (std::size_t i = 0; i < r.pages(); i++)
            r.write(i, 0xc0ffee + i);
        r.check();
        ::_exit(testing::Test::HasFailure() ? 1 : 0);
    }
    return wait_for(pid);
}

// After a merge parent and child share the frames, and each write is one's own.
TEST_P(Lifetime, ForkAfterAdvise) {
    const Pattern pattern = mixed();
    Actor a(kind(), pattern, pages());
    Actor b(kind(), pattern, pages());
    a.advise();
    b.advise();
    EXPECT_EQ(a.call(&fork_check_write), 0);
    a.check();
    b.check();
    EXPECT_GE(equal_frames(a.frames(), b.frames()), shared());
}

// Pages that parent and child share by fork already, advised in the child: they
// are mapped twice, and the parent's mapping must stay what it was.
TEST_P(Lifetime, ForkThenAdviseInChild) {
    const Pattern pattern = mixed();
    Actor a(kind(), pattern, pages());
    EXPECT_EQ(a.call(+[] {
        const pid_t pid = fork_tied();
        if (pid == 0) {
            Region &r = region();
            r.check(); // a fork does not copy what is only read from a file
            EXPECT_EQ(device().advise(r.base(), r.len()).done(), r.pages());
            r.check();
            r.allow_writes();
            for (std::size_t i = 0; i < r.pages(); i++)
                r.write(i, i);
            r.check();
            ::_exit(testing::Test::HasFailure() ? 1 : 0);
        }
        return wait_for(pid);
    }),
              0);
    a.check();
    a.allow_writes();
    a.write(0, 9);
    a.check();
}

// The same, advised in the parent while the child lives: the child's pages stay.
TEST_P(Lifetime, ForkThenAdviseInParent) {
    Actor a(kind(), mixed(), pages());
    EXPECT_EQ(a.call(+[] {
        std::array<int, 2> go{};
        must(::pipe(go.data()), "pipe");
        const pid_t pid = fork_tied();
        if (pid == 0) {
            char byte = 0;
            ::close(go[1]);
            static_cast<void>(::read(go[0], &byte, 1)); // until the parent is done
            Region &r = region();
            r.check();
            r.allow_writes();
            for (std::size_t i = 0; i < r.pages(); i++)
                r.write(i, i + 3);
            r.check();
            ::_exit(testing::Test::HasFailure() ? 1 : 0);
        }
        Region &r = region();
        EXPECT_EQ(device().advise(r.base(), r.len()).done(), r.pages());
        r.allow_writes();
        for (std::size_t i = 0; i < r.pages(); i += 2)
            r.write(i, i + 5);
        r.check();
        ::close(go[0]);
        ::close(go[1]);
        const int status = wait_for(pid);
        r.check();
        return status;
    }),
              0);
}

// Both advise what they share by fork: they end on the same frames.
TEST_P(Lifetime, ForkThenAdviseInBoth) {
    Actor a(kind(), mixed(), pages());
    EXPECT_EQ(a.call(+[] {
        const pid_t pid = fork_tied();
        Region &r = region();
        EXPECT_EQ(device().advise(r.base(), r.len()).error, 0);
        r.check();
        if (pid == 0)
            ::_exit(testing::Test::HasFailure() ? 1 : 0);
        const int status = wait_for(pid);
        // A huge page that both wanted to split at once may have resisted.
        const Advice advice = device().advise(r.base(), r.len());
        EXPECT_EQ(advice.done() + advice.skipped(UPM_SKIP_COMPOUND), r.pages());
        return status;
    }),
              0);
    a.check();
}

// A chain of forks, each with an advise and a write of its own.
TEST_P(Lifetime, ForkChain) {
    Actor a(kind(), mixed(), pages());
    EXPECT_EQ(a.call(+[] {
        Region &r = region();
        r.allow_writes();
        for (std::uint64_t depth = 0; depth < 5; depth++) {
            const Advice advice = device().advise(r.base(), r.len());
            EXPECT_EQ(advice.error, 0);
            r.check();
            r.write(depth, depth);
            const pid_t pid = fork_tied();
            if (pid != 0) {
                const int status = wait_for(pid);
                r.check();
                if (depth == 0)
                    return status;
                ::_exit(status == 0 && !testing::Test::HasFailure() ? 0 : 1);
            }
        }
        r.check();
        ::_exit(testing::Test::HasFailure() ? 1 : 0);
    }),
              0);
    a.check();
}

// The first who inserted is killed: the frames live on with those who map them,
// and a newcomer merges with them. (The original forgets them.)
TEST_P(Lifetime, FirstOwnerKilled) {
    const Pattern pattern{Content::kDistinct, fresh_seed()};
    Actor first(kind(), pattern, pages());
    Actor second(kind(), pattern, pages());
    EXPECT_EQ(first.advise().counts.inserted, pages());
    EXPECT_EQ(second.advise().counts.merged, pages());
    first.process().kill();
    sweep();
    second.check();
    Actor third(kind(), pattern, pages());
    EXPECT_EQ(third.advise().counts.merged, pages());
    EXPECT_EQ(equal_frames(second.frames(), third.frames()), pages());
    second.process().kill();
    sweep();
    third.check();
    Actor fourth(kind(), pattern, pages());
    EXPECT_EQ(fourth.advise().counts.merged, pages());
    fourth.check();
}

// Every order in which three processes can end.
TEST_P(Lifetime, ExitInAnyOrder) {
    std::array<std::size_t, 3> order{0, 1, 2};
    do {
        const Pattern pattern{Content::kDistinct, fresh_seed()};
        std::vector<Actor> actors;
        for (std::size_t i = 0; i < order.size(); i++)
            actors.emplace_back(kind(), pattern, pages());
        for (Actor &actor : actors)
            EXPECT_EQ(actor.advise().done(), pages());
        for (std::size_t i = 0; i < order.size(); i++) {
            EXPECT_EQ(actors[order[i]].process().end(), 0);
            for (std::size_t j = i + 1; j < order.size(); j++)
                actors[order[j]].check();
        }
    } while (kind() == Kind::kAnonymous && std::ranges::next_permutation(order).found);
}

// exec replaces the address space: the frames go back, and others keep theirs.
TEST_P(Lifetime, Exec) {
    const Pattern pattern{Content::kDistinct, fresh_seed()};
    Actor a(kind(), pattern, pages());
    Actor b(kind(), pattern, pages());
    a.advise();
    b.advise();
    EXPECT_EQ(a.call(+[] {
        const pid_t pid = fork_tied();
        if (pid == 0) {
            ::execl("/bin/true", "true", nullptr);
            ::_exit(1);
        }
        const int status = wait_for(pid);
        // vfork borrows the address space, and exec gives it back.
        const pid_t other = ::vfork();
        if (other == 0) {
            ::execl("/bin/true", "true", nullptr);
            ::_exit(1);
        }
        return status + wait_for(other);
    }),
              0);
    a.check();
    b.check();
    a.process().start(+[] { ::execl("/bin/true", "true", nullptr); });
    EXPECT_EQ(a.process().wait(), 0);
    b.check();
    Actor c(kind(), pattern, pages());
    EXPECT_EQ(c.advise().counts.merged, pages());
}

// ---- crowds -------------------------------------------------------------------

class Crowd : public KmodTest {};

// What many share since a fork is shared already: it is not taken from all of them, neither
// for its own sake nor because it lies between pages that merge.
TEST_F(Crowd, SharedByManySinceAFork) {
    constexpr std::size_t kPages = 32;
    for (const Kind kind : {Kind::kAnonymous, Kind::kHuge}) {
        const std::size_t pages = kind == Kind::kHuge ? pages_of(kind) : kPages;
        Actor a(kind, {Content::kDistinct, fresh_seed()}, pages);
        a.call(+[] {
            for (int i = 0; i < 12; i++) {
                if (fork_tied() == 0) {
                    ::pause();
                    ::_exit(0);
                }
            }
        });
        EXPECT_EQ(a.advise().skipped(UPM_SKIP_SHARED), pages) << kind;
        if (kind == Kind::kHuge)
            continue;
        for (std::size_t page = 0; page < pages; page += 8)
            a.write(page, page); // its own now
        const std::uint64_t before = statistic("batches");
        const Advice advice = a.advise();
        EXPECT_EQ(advice.counts.inserted, pages / 8);
        EXPECT_EQ(advice.skipped(UPM_SKIP_SHARED), pages - pages / 8);
        EXPECT_GE(statistic("batches"), before + pages / 8); // no freeze spans two of them
        a.check();
    }
}

// A hundred processes of one kind advise at the same time and are killed at the
// same time, while one goes on: nothing is lost, and all frames come back.
TEST_F(Crowd, ExitStorm) {
    constexpr std::size_t kProcesses = 100;
    constexpr std::size_t kPages = 24;
    const Pattern pattern{Content::kDistinct, fresh_seed()};
    Actor survivor(Kind::kAnonymous, pattern, kPages);
    {
        std::vector<Actor> crowd;
        for (std::size_t i = 0; i < kProcesses; i++)
            crowd.emplace_back(Kind::kAnonymous, pattern, kPages);
        for (Actor &actor : crowd)
            actor.start_advise();
        std::uint64_t inserted = 0;
        for (Actor &actor : crowd) {
            const Advice advice = actor.finish_advise();
            EXPECT_EQ(advice.done(), kPages);
            inserted += advice.counts.inserted;
        }
        EXPECT_EQ(inserted, kPages) << "each content once";
        EXPECT_EQ(statistic("pages_shared"), kPages);
        EXPECT_EQ(statistic("pages_sharing"), kPages * (kProcesses - 1));
        survivor.advise();
        for (Actor &actor : crowd)
            ::kill(actor.pid(), SIGKILL);
    }
    survivor.check();
    sweep();
    EXPECT_EQ(statistic("pages_shared"), kPages);
    EXPECT_EQ(statistic("pages_sharing"), 0U);
    EXPECT_EQ(survivor.advise().counts.already, kPages);
}

// Killed in the middle of the advise, again and again.
TEST_F(Crowd, KilledWhileAdvising) {
    constexpr std::size_t kPages = 256;
    const Pattern pattern{Content::kDistinct, fresh_seed()};
    Actor survivor(Kind::kAnonymous, pattern, kPages);
    const Knob knob("batch_pages", 8);
    survivor.advise();
    for (std::size_t round = 0; round < 12; round++) {
        Actor actor(Kind::kAnonymous, pattern, kPages);
        std::byte *base = actor.base();
        const Frames before = frames_of(actor.pid(), base, kPages);
        const Frames shared = survivor.frames();
        actor.start_advise();
        // As soon as `round` eighths of it are merged, wherever that finds it.
        eventually([&] {
            return equal_frames(frames_of(actor.pid(), base, kPages), shared) >=
                   kPages * round / 16;
        });
        actor.process().kill();
        survivor.check();
    }
}

// Two processes bring the same new content at the same moment: one frame each.
TEST_F(Crowd, SameNewContentAtOnce) {
    constexpr std::size_t kPages = 200;
    for (int round = 0; round < 8; round++) {
        const Knob knob("batch_pages", round % 2 == 0 ? 16 : 256);
        const Pattern pattern{Content::kDistinct, fresh_seed()};
        Actor a(Kind::kAnonymous, pattern, kPages);
        Actor b(Kind::kAnonymous, pattern, kPages);
        a.start_advise();
        b.start_advise();
        const Advice first = a.finish_advise();
        const Advice second = b.finish_advise();
        EXPECT_EQ(first.counts.inserted + second.counts.inserted, kPages);
        EXPECT_EQ(first.counts.merged + second.counts.merged, kPages);
        EXPECT_EQ(equal_frames(a.frames(), b.frames()), kPages);
        a.check();
        b.check();
    }
}

} // namespace

} // namespace upm::test
