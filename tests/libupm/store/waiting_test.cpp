// SPDX-License-Identifier: MIT
//
// Clients that wait for others to publish: who is answered when, and what interrupts them.
// And a program whose broker comes late.
#include "libupm/base/system.hpp"
#include "libupm/store/client.hpp"
#include "tests/libupm/store/fixture.hpp"

#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <fstream>
#include <future>
#include <pthread.h>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>

namespace upm::test {

namespace {

using store::Connection;
using store::Place;

class StoreWaiting : public StoreTest {
  protected:
    void connect(Connection &connection) const {
        store::SocketPath path;
        (void)broker.socket().copy(path.text, sizeof(path.text) - 1);
        ASSERT_EQ(connection.open(path, {}), 0);
    }
    // Looks one hash up and reserves it; waits if another client has it reserved.
    static std::uint32_t reserve(Connection &connection, std::uint64_t hash) {
        std::vector<std::byte> buffer(store::kMaxPacket);
        Place place;
        const int ret = connection.lookup({&hash, 1}, true, {&place, 1}, buffer);
        return ret == 0 ? place.segment : static_cast<std::uint32_t>(store::kUnknown);
    }
    static std::uint32_t publish(Connection &connection, std::uint64_t hash) {
        const Pages page(1);
        page.fill(static_cast<char>(hash));
        const int fd = make_segment(page.data(), page.size());
        std::vector<std::byte> buffer(store::kMaxPacket);
        std::uint32_t segment = store::kUnknown;
        EXPECT_EQ(connection.publish(fd, {&hash, 1}, segment, buffer), 0);
        (void)::close(fd);
        return segment;
    }
    // Returns true if it has its answer by now, some time after a reason to have none.
    static bool answered(std::future<std::uint32_t> &answer) {
        return answer.wait_for(std::chrono::milliseconds(50)) == std::future_status::ready;
    }
    // Waits for an answer that must come, however busy the machine is.
    static bool comes(std::future<std::uint32_t> &answer) {
        return answer.wait_for(std::chrono::seconds(30)) == std::future_status::ready;
    }
};

// Whoever came first need not be answered first.
TEST_F(StoreWaiting, EachIsAnsweredWhenItsPublisherIsDone) {
    for (const bool first_first : {true, false}) {
        const std::array<std::uint64_t, 2> hashes = {first_first ? 11U : 21U,
                                                     first_first ? 12U : 22U};
        std::array<Connection, 2> publishers;
        std::array<Connection, 2> waiters;
        std::array<std::future<std::uint32_t>, 2> answers;
        for (std::size_t i = 0; i < 2; ++i) {
            connect(publishers[i]);
            connect(waiters[i]);
            ASSERT_EQ(reserve(publishers[i], hashes[i]), store::kReserved);
        }
        for (std::size_t i = 0; i < 2; ++i) {
            answers[i] =
                std::async(std::launch::async, [&, i] { return reserve(waiters[i], hashes[i]); });
            ASSERT_FALSE(answered(answers[i]));
        }
        const std::size_t done = first_first ? 0 : 1;
        const std::uint32_t segment = publish(publishers[done], hashes[done]);
        ASSERT_TRUE(comes(answers[done]));
        EXPECT_EQ(answers[done].get(), segment);
        EXPECT_FALSE(answered(answers[1 - done])) << "its publisher is not done";
        const std::uint32_t other = publish(publishers[1 - done], hashes[1 - done]);
        ASSERT_TRUE(comes(answers[1 - done]));
        EXPECT_EQ(answers[1 - done].get(), other);
        for (Connection &connection : publishers)
            connection.close();
        for (Connection &connection : waiters)
            connection.close();
    }
}

// A frozen broker takes nothing more when its socket is full: of what was freed meanwhile.
TEST_F(StoreWaiting, NoRoomForARequest) {
    Connection connection;
    connect(connection);
    ASSERT_EQ(::kill(broker.pid(), SIGSTOP), 0);
    int reports = 0;
    while (reports < 1'000'000 && connection.report_unmapped() == 0)
        ++reports;
    EXPECT_NE(reports, 0);
    EXPECT_EQ(connection.report_unmapped(), -ETIMEDOUT);
    std::vector<std::byte> buffer(store::kMaxPacket);
    const std::uint64_t hash = 5;
    Place place;
    const std::uint64_t start = now_ms();
    constexpr int kPatienceMs = 50;
    EXPECT_EQ(connection.lookup({&hash, 1}, false, {&place, 1}, buffer, nullptr, kPatienceMs),
              -ETIMEDOUT);
    EXPECT_LT(now_ms() - start, 3'000U) << "sockets wait for five seconds";
    ASSERT_EQ(::kill(broker.pid(), SIGCONT), 0);
    connection.close();
}

// Two wait for the same: the first gets the reservation, the second goes on waiting.
TEST_F(StoreWaiting, TheNextOneGetsTheReservation) {
    Connection publisher;
    std::array<Connection, 2> waiters;
    std::array<std::future<std::uint32_t>, 2> answers;
    connect(publisher);
    ASSERT_EQ(reserve(publisher, 31), store::kReserved);
    for (std::size_t i = 0; i < 2; ++i) {
        connect(waiters[i]);
        answers[i] = std::async(std::launch::async, [&, i] { return reserve(waiters[i], 31); });
        ASSERT_FALSE(answered(answers[i]));
    }
    ASSERT_EQ(publisher.release(), 0);
    ASSERT_TRUE(comes(answers[0]));
    EXPECT_EQ(answers[0].get(), store::kReserved);
    EXPECT_FALSE(answered(answers[1]));
    const std::uint32_t segment = publish(waiters[0], 31);
    ASSERT_TRUE(comes(answers[1]));
    EXPECT_EQ(answers[1].get(), segment);
    publisher.close();
    for (Connection &connection : waiters)
        connection.close();
}

// A handler that runs meanwhile ends no call, and loses no answer.
TEST_F(StoreWaiting, SignalWhileWaitingForTheBroker) {
    static std::atomic<int> handled{0};
    struct sigaction action {};
    action.sa_handler = [](int) { ++handled; }; // no SA_RESTART
    ASSERT_EQ(::sigaction(SIGUSR1, &action, nullptr), 0);
    Connection publisher;
    Connection waiter;
    connect(publisher);
    connect(waiter);
    ASSERT_EQ(reserve(publisher, 41), store::kReserved);
    std::atomic<pthread_t> thread{};
    auto answer = std::async(std::launch::async, [&] {
        thread = ::pthread_self();
        return reserve(waiter, 41);
    });
    ASSERT_FALSE(answered(answer));
    for (int i = 0; i < 20; ++i) {
        ASSERT_EQ(::pthread_kill(thread, SIGUSR1), 0);
        ::usleep(5'000);
    }
    EXPECT_GE(handled, 1);
    ASSERT_FALSE(answered(answer)) << "a signal is no answer";
    const std::uint32_t segment = publish(publisher, 41);
    ASSERT_TRUE(comes(answer));
    EXPECT_EQ(answer.get(), segment);
    publisher.close();
    waiter.close();
    (void)::signal(SIGUSR1, SIG_DFL);
}

// A first contact that fails is not for life: the next calls look again, now and then.
TEST_F(StoreWaiting, BrokerThatComesLate) {
    const TempDir dir;
    const std::string late = dir.path() + "/late";
    std::ofstream(late) << "no folder yet";
    EXPECT_EQ(in_child([&] {
                  const Pages pages(20);
                  fill_pattern(pages, 1);
                  use(late + "/s");
                  (void)::setenv("UPM_BACKEND", "store", 1);
                  if (upm_advise(pages.data(), pages.size(), UPM_QUIESCENT, &counts) != -EOPNOTSUPP)
                      return 1;
                  (void)::unlink(late.c_str());
                  if (::symlink(broker.folder().path().c_str(), late.c_str()) != 0)
                      return 2;
                  const std::string socket = broker.socket();
                  use(late + socket.substr(socket.rfind('/')));
                  for (int tenth = 0; tenth < 100; ++tenth) {
                      if (upm_advise(pages.data(), pages.size(), UPM_QUIESCENT, &counts) == 0)
                          return counts.inserted == 20 ? 0 : 3;
                      ::usleep(100'000);
                  }
                  return 4;
              }),
              0);
}

} // namespace

} // namespace upm::test
