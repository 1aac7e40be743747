// SPDX-License-Identifier: MIT
//
// Connections that stay open between calls: whose they are, what for, and what becomes of them
// when the program does something to their descriptors.
#include "tests/libupm/store/fixture.hpp"

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <dirent.h>
#include <fcntl.h>
#include <set>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>

namespace upm::test {

namespace {

constexpr std::size_t kCount = 20; // pages

class StoreClient : public StoreTest {
  protected:
    void SetUp() override {
        StoreTest::SetUp();
        others_ = connections();
    }
    static std::set<int> descriptors() {
        std::set<int> found;
        DIR *const folder = ::opendir("/proc/self/fd");
        while (const dirent *const entry = folder != nullptr ? ::readdir(folder) : nullptr)
            found.insert(static_cast<int>(std::strtol(entry->d_name, nullptr, 10)));
        found.erase(folder != nullptr ? ::dirfd(folder) : -1);
        (void)::closedir(folder);
        return found;
    }
    // Those that this test has made.
    [[nodiscard]] std::set<int> connections() const {
        std::set<int> found;
        for (const int fd : descriptors()) {
            int type = 0;
            socklen_t size = sizeof(type);
            if (::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 &&
                type == SOCK_SEQPACKET && !others_.contains(fd))
                found.insert(fd);
        }
        return found;
    }
    // Advises pages of that pattern; how many were inserted, -1 if it failed.
    int insert(std::uint64_t salt, int domain = -1) {
        const Pages pages(kCount);
        fill_pattern(pages, salt);
        if (advise(pages, domain) != 0 || !has_pattern(pages, salt))
            return -1;
        return static_cast<int>(counts.inserted);
    }

  private:
    std::set<int> others_;
};

constexpr int kAll = static_cast<int>(kCount);

// Shells and old programs use fixed numbers, and select(2) is used with small ones.
TEST_F(StoreClient, LowNumbersStayFree) {
    const std::set<int> before = descriptors();
    ASSERT_EQ(open(), 0) << text;
    ASSERT_EQ(insert(1), kAll);
    std::size_t added = 0;
    for (const int fd : descriptors()) {
        if (before.contains(fd))
            continue;
        ++added;
        EXPECT_GE(fd, 100);
    }
    EXPECT_GT(added, 0U) << "the connection stays open";
}

// On its parent's one their answers would mix, and its memory would count as the parent's.
TEST_F(StoreClient, AChildHasItsOwnConnection) {
    ASSERT_EQ(open(), 0) << text;
    ASSERT_EQ(insert(1), kAll);
    const std::size_t before = connections().size();
    EXPECT_EQ(in_child(
                  [&] {
                      if (insert(2) != kAll)
                          return 1;
                      return connections().size() == before + 1 ? 0 : 2;
                  },
                  100),
              0);
    EXPECT_EQ(insert(3), kAll) << "the parent's is as it was";
    EXPECT_EQ(connections().size(), before);
}

// An idle connection serves the domain that it was made for.
TEST_F(StoreClient, DomainsOfOneProcessAreApart) {
    ASSERT_EQ(open(), 0) << text;
    const int one = backend.open_domain({1});
    const int other = backend.open_domain({2});
    ASSERT_GE(one, 0);
    ASSERT_GE(other, 0);
    const Pages pages(kCount); // stay, so that what they share does
    fill_pattern(pages, 1);
    ASSERT_EQ(advise(pages, one), 0);
    ASSERT_EQ(counts.inserted, kCount);
    EXPECT_EQ(insert(1, other), kAll);
    EXPECT_EQ(insert(1), kAll) << "nor is it in the default one";
    EXPECT_EQ(insert(1, one), 0) << "it is here";
    EXPECT_EQ(counts.merged, kCount);
    (void)::close(one);
    (void)::close(other);
}

// A number means something in one table only.
TEST_F(StoreClient, ThreadsWithOtherDescriptorsHaveOtherConnections) {
    ASSERT_EQ(open(), 0) << text;
    ASSERT_EQ(insert(1), kAll);
    const std::set<int> before = connections();
    for (const bool own : {true, false, true}) {
        std::thread([&] {
            if (own) {
                ASSERT_TRUE(backend.take_own_table());
            }
            EXPECT_EQ(insert(own ? 2 : 3), kAll);
            EXPECT_TRUE(backend.unmapped());
            EXPECT_EQ(insert(own ? 4 : 5), kAll);
        }).join();
        // What was idle went to the thread's table, and with it.
        EXPECT_EQ(connections().size(), own ? 0U : 1U);
    }
    EXPECT_EQ(insert(6), kAll);
    EXPECT_EQ(connections().size(), 1U);
}

// Those of a thread with descriptors of its own are still in use while others call.
TEST_F(StoreClient, TablesAtTheSameTime) {
    ASSERT_EQ(open(), 0) << text;
    constexpr int kRounds = 10;
    std::atomic<int> step{0}; // they take turns
    const auto done = [&](int number) {
        step = number;
        step.notify_all();
    };
    std::thread other([&] {
        EXPECT_TRUE(backend.take_own_table());
        for (int round = 0; round < kRounds; ++round) {
            EXPECT_EQ(insert(static_cast<std::uint64_t>(100 + round)), kAll);
            done(2 * round + 1);
            step.wait(2 * round + 1);
        }
    });
    for (int round = 0; round < kRounds; ++round) {
        step.wait(2 * round);
        EXPECT_EQ(insert(static_cast<std::uint64_t>(200 + round)), kAll);
        EXPECT_EQ(connections().size(), 1U);
        done(2 * round + 2);
    }
    other.join();
}

// Daemons close all descriptors that they do not know.
TEST_F(StoreClient, ProgramsCloseAllDescriptors) {
    ASSERT_EQ(open(), 0) << text;
    ASSERT_EQ(insert(1), kAll);
    for (const int fd : connections())
        (void)::close(fd);
    EXPECT_EQ(insert(2), kAll);
    EXPECT_EQ(connections().size(), 1U);
}

// The number may have become a socket of the program's: it gets no byte, and stays open.
TEST_F(StoreClient, TheNumberIsAnotherFileNow) {
    ASSERT_EQ(open(), 0) << text;
    ASSERT_EQ(insert(1), kAll);
    const std::set<int> used = connections();
    ASSERT_EQ(used.size(), 1U);
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends), 0);
    ASSERT_EQ(::dup2(ends[0], *used.begin()), *used.begin());
    EXPECT_EQ(insert(2), kAll);
    char byte = 0;
    EXPECT_EQ(::recv(ends[1], &byte, 1, 0), -1) << "the program's peer got a request";
    EXPECT_EQ(errno, EAGAIN);
    EXPECT_EQ(::send(*used.begin(), "x", 1, MSG_NOSIGNAL), 1) << "it was closed";
    EXPECT_EQ(::recv(ends[1], &byte, 1, 0), 1);
    for (const int fd : {ends[0], ends[1], *used.begin()})
        (void)::close(fd);
}

} // namespace

} // namespace upm::test
