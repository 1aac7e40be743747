// SPDX-License-Identifier: MIT
//
// Threads for what may block for ever: some users' tasks hang, and others' are done.
#include "tools/broker/crew.hpp"

#include <atomic>
#include <gtest/gtest.h>
#include <memory>
#include <poll.h>
#include <unistd.h>

namespace upm::test {

namespace {

struct Gates { // outlive the crew, as its threads may
    std::atomic<bool> open{false};
    std::atomic<int> hanging{0};
};

struct Task {
    int number = 0;
    std::shared_ptr<Gates> gates; // nothing: it does not hang
};

using Crew = broker::Crew<Task, int>;

int work(Task &task) {
    if (task.gates == nullptr)
        return task.number;
    ++task.gates->hanging;
    while (!task.gates->open)
        (void)::usleep(1'000);
    --task.gates->hanging;
    return -1;
}

class BrokerCrew : public testing::Test {
  protected:
    ~BrokerCrew() override {
        gates->open = true;
        while (gates->hanging != 0)
            (void)::usleep(1'000);
    }
    // Results until there are so many; fewer if they do not come within a minute.
    static std::vector<int> results(Crew &crew, std::size_t count) {
        std::vector<int> all;
        for (int tries = 0; tries < 600 && all.size() < count; ++tries) {
            pollfd event{.fd = crew.event(), .events = POLLIN, .revents = 0};
            (void)::poll(&event, 1, 100);
            (void)crew.tick();
            for (const int result : crew.take_results())
                all.push_back(result);
        }
        return all;
    }
    void wait_for_hanging(Crew &crew, int count) const {
        for (int tries = 0; tries < 20'000 && gates->hanging != count; ++tries) {
            (void)crew.tick();
            (void)::usleep(1'000);
        }
        EXPECT_EQ(gates->hanging, count);
    }
    std::shared_ptr<Gates> gates = std::make_shared<Gates>();
};

TEST_F(BrokerCrew, ThreadsThatHangAreReplaced) {
    Crew crew({.threads = 4, .user_threads = 2, .hanging = 8, .patience_ms = 50}, work);
    for (uid_t uid = 1; uid <= 4; ++uid) // as many as there are threads, twice
        for (int i = 0; i < 3; ++i)
            crew.add(uid, {.gates = gates});
    crew.add(9, {.number = 42, .gates = nullptr});
    EXPECT_EQ(results(crew, 1), std::vector<int>{42});
    wait_for_hanging(crew, 8); // two of each of those users
    EXPECT_FALSE(crew.takes(1)) << "all of its threads hang";
    EXPECT_TRUE(crew.takes(9));
}

TEST_F(BrokerCrew, NotForEver) {
    Crew crew({.threads = 2, .user_threads = 2, .hanging = 2, .patience_ms = 20}, work);
    for (uid_t uid = 1; uid <= 8; ++uid)
        for (int i = 0; i < 2; ++i)
            crew.add(uid, {.gates = gates});
    wait_for_hanging(crew, 4);
    for (int i = 0; i < 100; ++i) {
        (void)crew.tick();
        (void)::usleep(2'000);
    }
    EXPECT_EQ(gates->hanging, 4);
    gates->open = true;
    EXPECT_EQ(results(crew, 16).size(), 16U) << "when they come back, all is done";
}

TEST_F(BrokerCrew, TasksOfAUserAreBounded) {
    Crew crew({.threads = 4, .user_threads = 1, .user_tasks = 3, .tasks = 5}, work);
    for (int i = 0; i < 3; ++i) {
        EXPECT_TRUE(crew.takes(1)) << i;
        crew.add(1, {.gates = gates});
    }
    EXPECT_FALSE(crew.takes(1));
    for (int i = 0; i < 2; ++i) {
        EXPECT_TRUE(crew.takes(2)) << i;
        crew.add(2, {.gates = gates});
    }
    EXPECT_FALSE(crew.takes(3)) << "of all users together";
    gates->open = true;
    EXPECT_EQ(results(crew, 5).size(), 5U);
    EXPECT_TRUE(crew.takes(1));
}

} // namespace

} // namespace upm::test
