// SPDX-License-Identifier: MIT
//
// The broker's books, and that it stands what a bad member sends.
#include "cuda-cow/broker/client.hpp"
#include "cuda-cow/broker/store.hpp"
#include "tests/cuda-cow/support.hpp"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

namespace upm::cuda::test {

namespace {

using broker::Answer;
using broker::Content;
using broker::Limits;
using broker::State;
using broker::Store;
using broker::Welcome;

constexpr std::uint8_t kDevice[16] = {1};

int some_fd() {
    return ::open("/dev/null", O_RDONLY | O_CLOEXEC);
}

struct Books {
    explicit Books(Limits limits = {}) : store(limits) {
        EXPECT_EQ(store.join(1, "a", kDevice, welcome), 0);
        EXPECT_EQ(store.join(2, "a", kDevice, welcome), 0);
    }
    Answer find(broker::Member member, const Content &content) {
        fd = -1;
        return store.find(member, content, now, fd);
    }
    void publish(broker::Member member, const Content &content) {
        const Answer answer = find(member, content);
        ASSERT_EQ(answer.state, State::kReserved);
        ASSERT_EQ(store.publish(member, answer.id, some_fd()), 0);
    }
    Store store;
    Welcome welcome;
    broker::Time now{};
    int fd = -1;
};

TEST(Store, ReserveThenBusyThenShared) {
    Books books;
    const Content content{4096, 1, 2};
    const Answer first = books.find(1, content);
    EXPECT_EQ(first.state, State::kReserved);
    EXPECT_EQ(books.find(2, content).state, State::kBusy);
    EXPECT_EQ(books.store.publish(2, first.id, some_fd()), ESTALE) << "not its reservation";
    EXPECT_EQ(books.store.publish(1, first.id, some_fd()), 0);
    EXPECT_EQ(books.find(2, content).state, State::kShared);
    EXPECT_GE(books.fd, 0);
    EXPECT_EQ(books.store.counters().leases, 2U);
}

TEST(Store, LeaseEndsWithItsMember) {
    Books books;
    const Content content{4096, 1, 2};
    books.publish(1, content);
    EXPECT_EQ(books.find(2, content).state, State::kShared);
    books.store.leave(1);
    EXPECT_EQ(books.store.counters().extents, 1U) << "the other still leases it";
    books.store.leave(2);
    EXPECT_EQ(books.store.counters().extents, 0U);
    EXPECT_EQ(books.store.counters().domains, 0U);
}

TEST(Store, ReservationEndsWithItsMember) {
    Books books;
    const Content content{4096, 1, 2};
    EXPECT_EQ(books.find(1, content).state, State::kReserved);
    books.store.leave(1);
    EXPECT_EQ(books.find(2, content).state, State::kReserved);
}

// Its holder may be frozen: after a while whoever asks next takes the promise over.
TEST(Store, OldReservationPassesOn) {
    Books books;
    const Content content{4096, 1, 2};
    const Answer first = books.find(1, content);
    ASSERT_EQ(first.state, State::kReserved);
    ASSERT_TRUE(books.store.next_overdue().has_value());
    books.now = *books.store.next_overdue() - std::chrono::milliseconds(1);
    EXPECT_EQ(books.find(2, content).state, State::kBusy);
    books.now += std::chrono::milliseconds(1);
    EXPECT_EQ(books.find(1, content).state, State::kBusy) << "not from oneself";
    const Answer second = books.find(2, content);
    EXPECT_EQ(second.state, State::kReserved);
    EXPECT_EQ(books.store.publish(1, first.id, some_fd()), ESTALE) << "too late";
    EXPECT_EQ(books.store.publish(2, second.id, some_fd()), 0);
    EXPECT_EQ(books.find(1, content).state, State::kShared);
    EXPECT_FALSE(books.store.next_overdue().has_value());
    books.store.leave(1);
    books.store.leave(2);
    EXPECT_EQ(books.store.counters().extents, 0U) << "nothing is left of either";
}

TEST(Store, SizeTagDeviceAndDomainAllCount) {
    Books books;
    books.publish(1, {4096, 1, 2});
    EXPECT_EQ(books.find(2, {8192, 1, 2}).state, State::kReserved);
    EXPECT_EQ(books.find(2, {4096, 2, 2}).state, State::kReserved);
    EXPECT_EQ(books.find(2, {4096, 1, 1}).state, State::kReserved);
    Welcome other;
    constexpr std::uint8_t kOther[16] = {2};
    ASSERT_EQ(books.store.join(3, "a", kOther, other), 0);
    EXPECT_EQ(books.find(3, {4096, 1, 2}).state, State::kReserved);
    ASSERT_EQ(books.store.join(4, "b", kDevice, other), 0);
    EXPECT_EQ(books.find(4, {4096, 1, 2}).state, State::kReserved);
    EXPECT_NE(other.seed_low, books.welcome.seed_low) << "each domain has its own secret";
}

TEST(Store, OldestUnusedGoesFirst) {
    Books books({.keep_bytes = 8192});
    for (std::uint64_t tag = 1; tag <= 3; ++tag) {
        const Answer answer = books.find(1, {4096, tag, 0});
        ASSERT_EQ(books.store.publish(1, answer.id, some_fd()), 0);
        ASSERT_EQ(books.store.release(1, answer.id), 0);
    }
    EXPECT_EQ(books.store.counters().bytes, 8192U);
    EXPECT_EQ(books.find(2, {4096, 1, 0}).state, State::kReserved) << "the oldest is gone";
    EXPECT_EQ(books.find(2, {4096, 3, 0}).state, State::kShared);
}

TEST(Store, Limits) {
    Books books({.extents = 2, .domain_bytes = 8192});
    EXPECT_EQ(books.find(1, {16384, 1, 0}).state, State::kRefused);
    books.publish(1, {4096, 1, 0});
    books.publish(1, {4096, 2, 0});
    EXPECT_EQ(books.find(1, {4096, 3, 0}).state, State::kRefused);
    EXPECT_EQ(books.find(1, {4096, 1, 0}).state, State::kShared) << "known ones still are";
}

// Who can connect at all, such as other users with --any-user, cannot take all.
TEST(Store, NoUserTakesAll) {
    Store store({.extents = 8, .user_extents = 4});
    Welcome welcome;
    int fd = -1;
    std::vector<broker::Id> published;
    for (broker::Member member = 1; member <= 2; ++member)
        ASSERT_EQ(store.join(member, "key:" + std::to_string(member), kDevice, welcome, 1000), 0);
    ASSERT_EQ(store.join(3, "uid:1001", kDevice, welcome, 1001), 0);
    for (std::uint64_t tag = 0; tag < 6; ++tag) {
        const Answer answer = store.find(1 + tag % 2, {4096, tag, 0}, {}, fd);
        EXPECT_EQ(answer.state, tag < 4 ? State::kReserved : State::kRefused) << tag;
        if (tag % 2 == 0 && answer.state == State::kReserved) {
            ASSERT_EQ(store.publish(1, answer.id, some_fd()), 0);
        }
    }
    EXPECT_EQ(store.find(3, {4096, 1, 0}, {}, fd).state, State::kReserved) << "room for others";
    store.leave(1);
    EXPECT_EQ(store.find(2, {4096, 9, 0}, {}, fd).state, State::kReserved)
        << "what went counts no more";
    store.leave(2);
    store.leave(3);
    EXPECT_EQ(store.counters().domains, 0U);
}

// A promise that passes on counts for who has it now.
TEST(Store, PassedOnPromiseChangesSides) {
    Store store({.user_extents = 1});
    Welcome welcome;
    int fd = -1;
    ASSERT_EQ(store.join(1, "key:a", kDevice, welcome, 1000), 0);
    ASSERT_EQ(store.join(2, "key:a", kDevice, welcome, 1001), 0);
    ASSERT_EQ(store.find(1, {4096, 1, 0}, {}, fd).state, State::kReserved);
    const broker::Time later = *store.next_overdue();
    ASSERT_EQ(store.find(2, {4096, 1, 0}, later, fd).state, State::kReserved);
    EXPECT_EQ(store.find(1, {4096, 2, 0}, later, fd).state, State::kReserved);
    EXPECT_EQ(store.find(2, {4096, 3, 0}, later, fd).state, State::kRefused);
}

// What a member says of sizes goes into sums of all domains.
TEST(Store, SizesThatNoDeviceHas) {
    Books books({.domain_bytes = 8192});
    for (const std::uint64_t bytes : {~0ULL, ~0ULL - 4095, 1ULL << 63, (1ULL << 40) + 1})
        EXPECT_EQ(books.find(1, {bytes, 1, 0}).state, State::kRefused) << bytes;
    books.publish(1, {4096, 1, 0});
    EXPECT_EQ(books.find(2, {~0ULL - 4095, 1, 0}).state, State::kRefused)
        << "4096 more would be nothing at all";
}

TEST(Store, TakenBackPublicationIsGone) {
    Books books({.keep_bytes = 1 << 20});
    const Answer answer = books.find(1, {4096, 1, 0});
    ASSERT_EQ(books.store.publish(1, answer.id, some_fd()), 0);
    books.store.unpublish(1, answer.id);
    EXPECT_EQ(books.store.counters().extents, 0U) << "though unused ones are kept";
}

int connect_raw(const std::string &path) {
    const int made = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, sizeof address.sun_path - 1);
    EXPECT_EQ(::connect(made, reinterpret_cast<sockaddr *>(&address), sizeof address), 0);
    return made;
}

// Whoever does not keep to the protocol is dropped; the others notice nothing.
TEST(Server, DropsNonsense) {
    const Broker upm_cudad;
    broker::Client good({.socket = upm_cudad.socket()});
    Welcome welcome;
    ASSERT_EQ(good.welcome(welcome), 0);
    broker::Message messages[4];
    messages[0].header.magic = 7;
    messages[1].header.type = broker::Type::kFind; // before kHello
    messages[1].append(Content{1, 1, 1});
    messages[2].header.type = broker::Type::kHello;
    messages[2].header.count = 60; // more than there is
    messages[3].header.type = static_cast<broker::Type>(999);
    for (const broker::Message &message : messages) {
        const int bad = connect_raw(upm_cudad.socket());
        ASSERT_EQ(broker::send_message(bad, message), 0);
        broker::Message answer;
        EXPECT_EQ(broker::receive_message(bad, answer), EPIPE);
        ::close(bad);
    }
    const int silent = connect_raw(upm_cudad.socket());
    broker::Counters counters;
    EXPECT_EQ(good.counters(counters), 0);
    EXPECT_EQ(counters.members, 1U);
    ::close(silent);
}

TEST(Server, RefusesAPathInUse) {
    const Broker upm_cudad;
    Program second({UPM_CUDAD, "--socket", upm_cudad.socket()});
    EXPECT_EQ(second.wait(), 1);
    broker::Client client({.socket = upm_cudad.socket()});
    broker::Counters counters;
    EXPECT_EQ(client.counters(counters), 0) << "the first still answers";
}

} // namespace

} // namespace upm::cuda::test
