// SPDX-License-Identifier: MIT
#include "libupm/api/async.hpp"

#include "tests/libupm/engine/fake_backend.hpp"

#include <cerrno>
#include <chrono>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <semaphore>
#include <set>
#include <sys/resource.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <upm/upm.hpp>

namespace upm::test {

namespace {

bool readable(int fd, int timeout_ms) {
    pollfd entry{.fd = fd, .events = POLLIN, .revents = 0};
    return ::poll(&entry, 1, timeout_ms) == 1 && (entry.revents & POLLIN) != 0;
}

constexpr int kSoon = 10000; // ms: never reached unless something is broken

class AsyncTest : public testing::Test {
  protected:
    Job *start(std::size_t pages = 1, bool by_fd = false) {
        Job *job = nullptr;
        EXPECT_EQ(async_start(fixture.engine, {.addr = page_size(), .len = pages * page_size()},
                              by_fd, job, fd),
                  0);
        return job;
    }
    // Makes the backend wait for `gate` in each call.
    void block() {
        fixture.backend.on_run = [this](const Call &call, upm_counts &given) {
            gate.acquire();
            return FakeBackend::merge(call, given);
        };
    }

    Fixture fixture;
    std::counting_semaphore<> gate{0};
    upm_counts counts{};
    int fd = -1;
};

TEST_F(AsyncTest, ReturnsWhatAdviseReturns) {
    fixture.backend.on_run = [](const Call &, upm_counts &given) {
        given.pages = given.merged = 3;
        return -EINTR;
    };
    Job *const job = start(4);
    EXPECT_EQ(async_wait(*job, counts), -EINTR);
    EXPECT_EQ(counts.merged, 3U);
    EXPECT_EQ(counts.bytes, 3 * page_size());
    EXPECT_EQ(async_wait(*job, counts), -EINTR) << "waiting twice is allowed";
    async_release(job);
}

TEST_F(AsyncTest, CallerDoesNotWait) {
    block();
    Job *const job = start();
    EXPECT_FALSE(async_done(*job));
    EXPECT_FALSE(readable(fd, 20));
    gate.release();
    EXPECT_TRUE(readable(fd, kSoon));
    EXPECT_EQ(async_wait(*job, counts), 0);
    EXPECT_TRUE(async_done(*job));
    EXPECT_TRUE(readable(fd, 0)) << "stays readable: poll(2) is level-triggered";
    async_release(job);
    EXPECT_EQ(::fcntl(fd, F_GETFD), -1) << "release closes the descriptor";
}

TEST_F(AsyncTest, DescriptorIsCloseOnExec) {
    Job *const job = start();
    EXPECT_EQ(::fcntl(fd, F_GETFD), FD_CLOEXEC);
    async_release(job);
}

TEST_F(AsyncTest, KeepsTheOrder) {
    block();
    std::vector<Job *> jobs;
    for (std::size_t pages = 1; pages <= 20; ++pages)
        jobs.push_back(start(pages));
    gate.release(20);
    for (Job *job : jobs)
        async_release(job);
    const std::vector<Call> calls = fixture.backend.calls();
    ASSERT_EQ(calls.size(), 20U);
    for (std::size_t i = 0; i < calls.size(); ++i)
        EXPECT_EQ(calls[i].len, (i + 1) * page_size());
}

TEST_F(AsyncTest, ReleaseWaits) {
    block();
    Job *const job = start();
    std::thread opener([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(30));
        gate.release();
    });
    async_release(job);
    EXPECT_EQ(fixture.backend.calls().size(), 1U);
    opener.join();
}

// The worker must not run the program's signal handlers on its small stack.
TEST_F(AsyncTest, WorkerBlocksSignals) {
    sigset_t seen;
    (void)::sigemptyset(&seen);
    fixture.backend.on_run = [&](const Call &call, upm_counts &given) {
        (void)::pthread_sigmask(SIG_SETMASK, nullptr, &seen);
        return FakeBackend::merge(call, given);
    };
    async_release(start());
    EXPECT_EQ(::sigismember(&seen, SIGTERM), 1);
    EXPECT_EQ(::sigismember(&seen, SIGALRM), 1);
    sigset_t own;
    (void)::pthread_sigmask(SIG_SETMASK, nullptr, &own);
    EXPECT_EQ(::sigismember(&own, SIGTERM), 0) << "the caller's mask must come back";
}

TEST_F(AsyncTest, RefusesAtOnceWhatCannotWork) {
    Job *job = nullptr;
    EXPECT_EQ(async_start(fixture.engine, {.addr = 1, .len = 1, .flags = 4}, true, job, fd),
              -EINVAL);
    fixture.backend.can.dry_run = false;
    EXPECT_EQ(
        async_start(fixture.engine, {.addr = 1, .len = 1, .flags = UPM_DRY_RUN}, true, job, fd),
        -EOPNOTSUPP);
    EXPECT_EQ(job, nullptr);
}

// In a child, where no memory can be mapped, so that no thread can be made.
TEST_F(AsyncTest, LeavesNothingWhereNoThreadCanBeMade) {
    const pid_t child = ::fork();
    if (child == 0) {
        const int before = ::dup(STDERR_FILENO);
        ::close(before);
        const rlimit none{.rlim_cur = 0, .rlim_max = 0};
        Job *job = nullptr;
        const bool refused = ::setrlimit(RLIMIT_AS, &none) == 0 &&
                             async_start(fixture.engine, {.addr = page_size(), .len = page_size()},
                                         true, job, fd) == -EAGAIN;
        const bool clean = job == nullptr && ::dup(STDERR_FILENO) == before;
        ::_exit(!refused ? 1 : clean ? 0 : 2);
    }
    int status = -1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0) << "exit status " << WEXITSTATUS(status);
}

TEST_F(AsyncTest, ClaimFindsOnlyJobsOfTheCInterface) {
    Job *const own = start(1, false);
    const int own_fd = fd;
    Job *const by_fd = start(1, true);
    EXPECT_EQ(async_claim(own_fd), nullptr);
    EXPECT_EQ(async_claim(fd), by_fd);
    EXPECT_EQ(async_claim(fd), nullptr) << "once only";
    async_release(own);
    async_release(by_fd);
}

TEST_F(AsyncTest, ManyThreads) {
    std::vector<std::thread> threads;
    threads.reserve(8);
    for (int i = 0; i < 8; ++i)
        threads.emplace_back([&] {
            for (int round = 0; round < 200; ++round) {
                Job *job = nullptr;
                int own_fd = -1;
                upm_counts own{};
                ASSERT_EQ(async_start(fixture.engine, {.addr = page_size(), .len = page_size()},
                                      round % 2 == 0, job, own_fd),
                          0);
                ASSERT_EQ(async_wait(*job, own), 0);
                ASSERT_EQ(own.merged, 1U);
                async_release(job);
            }
        });
    for (std::thread &thread : threads)
        thread.join();
    EXPECT_EQ(fixture.backend.calls().size(), 1600U);
}

// A child has no worker: what was going on is cancelled there, and only there.
TEST_F(AsyncTest, ForkCancelsInTheChildOnly) {
    block();
    Job *const running = start(1, true);
    const int running_fd = fd;
    Job *const queued = start(2, true);
    // Only once the worker is inside the first call is it "running".
    while (fixture.backend.calls().empty())
        std::this_thread::yield();
    EXPECT_EQ(in_child([&] {
                  upm_counts own{};
                  if (async_wait(*running, own) != -ECANCELED || own.pages != 0)
                      return 1;
                  if (async_wait(*queued, own) != -ECANCELED)
                      return 2;
                  // A worker of the child's own must not take up the parent's work.
                  fixture.backend.on_run = FakeBackend::merge;
                  async_release(start(5));
                  if (fixture.backend.calls().size() != 2)
                      return 4;
                  if (async_claim(running_fd) != running)
                      return 3;
                  async_release(running);
                  async_release(queued);
                  return 0;
              }),
              0);
    EXPECT_FALSE(async_done(*running));
    EXPECT_FALSE(readable(running_fd, 20)) << "the child must not signal the parent's eventfd";
    gate.release(2);
    EXPECT_EQ(async_wait(*running, counts), 0);
    EXPECT_EQ(async_wait(*queued, counts), 0);
    EXPECT_EQ(counts.pages, 2U);
    async_release(running);
    async_release(queued);
}

TEST_F(AsyncTest, ChildStartsItsOwnWorker) {
    async_release(start());
    EXPECT_EQ(in_child([&] {
                  Job *const job = start(5);
                  upm_counts own{};
                  const int ret = async_wait(*job, own);
                  async_release(job);
                  return ret == 0 && own.pages == 5 ? 0 : 1;
              }),
              0);
}

// Locks that another thread holds at the time of the fork must be free in the child.
TEST_F(AsyncTest, ForkWhileOthersSubmit) {
    std::atomic<bool> stop{false};
    std::vector<std::thread> threads;
    threads.reserve(3);
    for (int i = 0; i < 3; ++i)
        threads.emplace_back([&] {
            while (!stop) {
                Job *job = nullptr;
                int own_fd = -1;
                if (async_start(fixture.engine, {.addr = page_size(), .len = page_size()}, false,
                                job, own_fd) == 0)
                    async_release(job);
            }
        });
    for (int round = 0; round < 50; ++round) {
        const int status = in_child([&] {
            // FakeBackend's own lock is not fork-safe: go around it.
            Job *job = nullptr;
            int own_fd = -1;
            upm_counts own{};
            if (async_start(fixture.engine, {.addr = 0, .len = 0}, false, job, own_fd) != 0)
                return 1;
            const int ret = async_wait(*job, own);
            async_release(job);
            return ret == 0 ? 0 : 2;
        });
        ASSERT_EQ(status, 0) << "round " << round;
    }
    stop = true;
    for (std::thread &thread : threads)
        thread.join();
}

// The public handle, over whatever backend this machine has.
TEST(AsyncHandle, EmptyAndMoved) {
    Async empty;
    EXPECT_FALSE(empty);
    EXPECT_TRUE(empty.done());
    EXPECT_EQ(empty.fd(), -1);
    EXPECT_EQ(empty.wait().error(), EINVAL);
    Async moved = std::move(empty);
    EXPECT_FALSE(moved);
}

TEST(AsyncFinish, RefusesWhatWasNotStarted) {
    EXPECT_EQ(upm_async_finish(-1, nullptr), -EBADF);
    EXPECT_EQ(upm_async_finish(0, nullptr), -EBADF);
    EXPECT_EQ(::fcntl(0, F_GETFD) >= 0 || errno == EBADF, true) << "must not close stdin";
}

} // namespace

} // namespace upm::test
