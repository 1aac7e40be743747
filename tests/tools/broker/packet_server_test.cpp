// SPDX-License-Identifier: MIT
//
// The loop of the brokers: shares of connections, turns, descriptors, oversized packets.
#include "libupm/base/packet.hpp"
#include "tests/support/process.hpp"
#include "tests/support/support.hpp"
#include "tools/broker/listener.hpp"
#include "tools/broker/packet_server.hpp"

#include <atomic>
#include <cerrno>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <memory>
#include <optional>
#include <string>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace upm::test {

namespace {

using broker::Attachments;
using broker::ClientId;

// Answers "N", the number of descriptors that came. A packet that says 'h' holds up the loop
// until go_on().
class Counting final : public broker::Service {
  public:
    Counting(broker::Descriptor listener, const broker::PacketLimits &limits)
        : server_(std::move(listener), limits, *this) {}
    void run() { server_.run(); }
    void stop() {
        over_ = true;
        held_ = false;
    }
    [[nodiscard]] bool held() const { return held_; }
    // Post: `order` has the first letters of the packets that came since, and a c for each new
    // client.
    void go_on(std::string &order) {
        order_ = &order;
        held_ = false;
    }

    ClientId connect(int /*socket*/, const ucred & /*peer*/) override {
        if (order_ != nullptr)
            order_->push_back('c');
        return ++last_;
    }
    void refused(uid_t uid, const char *why) override {
        refused_ += std::to_string(uid) + ": " + why + "\n";
    }
    // Pre: the loop does not run.
    [[nodiscard]] const std::string &refused() const { return refused_; }
    void disconnect(ClientId /*id*/) override {}
    bool handle(ClientId id, std::span<const std::byte> packet, Attachments attachments) override {
        std::string answer = std::to_string(attachments.fds.size());
        answer += attachments.lost ? "l" : "";
        answer += attachments.unwelcome ? "u" : "";
        if (order_ != nullptr && !packet.empty())
            order_->push_back(static_cast<char>(packet[0]));
        if (!packet.empty() && packet[0] == std::byte{'h'}) {
            held_ = true;
            while (held_)
                (void)::usleep(1'000);
        }
        server_.send(id, std::as_bytes(std::span(answer)));
        return packet.empty() || packet[0] != std::byte{'x'};
    }
    std::optional<int> tick() override { return over_ ? std::nullopt : std::optional(20); }

  private:
    std::atomic<bool> over_{false};
    std::atomic<bool> held_{false};
    std::string *order_ = nullptr; // set while the loop is held up
    ClientId last_ = 0;
    std::string refused_; // a line for each
    broker::PacketServer server_;
};

std::vector<tool::Descriptor> flood; // connections of another user's process

class BrokerLoop : public testing::Test {
  protected:
    void start(const broker::PacketLimits &limits) {
        ASSERT_EQ(::chmod(folder_.path().c_str(), 0755), 0);
        ASSERT_TRUE(listener_.make(name(), 0666));
        service_ = std::make_unique<Counting>(listener_.take(), limits);
        thread_ = std::thread([this] { service_->run(); });
    }
    void TearDown() override { finish(); }
    void finish() {
        if (!thread_.joinable())
            return;
        service_->stop();
        thread_.join();
    }
    [[nodiscard]] std::string name() const { return folder_.path() + "/s"; }

    [[nodiscard]] tool::Descriptor connect() const {
        tool::Descriptor fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
        sockaddr_un address{};
        if (packet::fill_address(name(), address) != 0 ||
            ::connect(fd.get(), reinterpret_cast<sockaddr *>(&address), sizeof(address)) != 0)
            return {};
        return fd;
    }
    static bool send(int socket, const std::string &text, std::span<const int> fds = {}) {
        const iovec part{.iov_base = const_cast<char *>(text.data()), .iov_len = text.size()};
        return packet::send(socket, {&part, 1}, fds) == 0;
    }
    // The loop serves nobody from then on, until it is to go on.
    void hold_by(int socket) const {
        ASSERT_TRUE(send(socket, "h"));
        while (!service_->held())
            (void)::usleep(1'000);
    }
    // "gone" if the broker has hung up.
    static std::string receive(int socket) {
        char text[64] = {};
        const ssize_t got = ::recv(socket, text, sizeof(text), 0);
        return got > 0 ? std::string(text, static_cast<std::size_t>(got)) : "gone";
    }
    static std::string ask(int socket, const std::string &text, std::span<const int> fds = {}) {
        return send(socket, text, fds) ? receive(socket) : "gone";
    }

    TempDir folder_;
    broker::Listener listener_;
    std::unique_ptr<Counting> service_;
    std::thread thread_;
};

TEST_F(BrokerLoop, ConnectionsOfAllAndOfOneUser) {
    start({.clients = 3, .user_clients = 2, .bytes = 64});
    auto first = connect();
    auto second = connect();
    ASSERT_EQ(ask(first.get(), "a"), "0");
    ASSERT_EQ(ask(second.get(), "a"), "0");
    EXPECT_EQ(ask(connect().get(), "a"), "gone") << "a third one of this user";
    first = {};
    std::string answer = "gone";
    for (int tries = 0; tries < 1'000 && answer == "gone"; ++tries) { // it has to notice
        first = connect();
        answer = ask(first.get(), "a");
    }
    EXPECT_EQ(answer, "0") << "one that has gone does not count";
    if (::geteuid() == 0) {
        EXPECT_EQ(in_child([&] {
                      if (::setuid(65534) != 0)
                          return 1;
                      const auto other = connect();
                      if (ask(other.get(), "a") != "0")
                          return 2;
                      return ask(connect().get(), "a") == "gone" ? 0 : 3; // of all there are three
                  }),
                  0);
    }
    finish();
    const std::string own = std::to_string(::geteuid());
    EXPECT_THAT(service_->refused(),
                testing::StartsWith(own + ": it has as many connections as one user may\n"));
    if (::geteuid() != 0)
        return;
    EXPECT_THAT(
        service_->refused(),
        testing::EndsWith("65534: all users together have as many connections as may be\n"));
}

TEST_F(BrokerLoop, Descriptors) {
    start({.bytes = 64, .fds = 2});
    const auto client = connect();
    const tool::Descriptor memory(::memfd_create("x", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    const tool::Descriptor file(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    const int fds[] = {memory.get(), memory.get(), memory.get()};
    const int foreign[] = {memory.get(), file.get()};
    EXPECT_EQ(ask(client.get(), "a"), "0");
    EXPECT_EQ(ask(client.get(), "a", std::span(fds).first(1)), "1");
    EXPECT_EQ(ask(client.get(), "a", std::span(fds).first(2)), "2");
    EXPECT_EQ(ask(client.get(), "a", foreign), "1u") << "a file is no memfd";
    EXPECT_EQ(ask(client.get(), "a"), "0");
    EXPECT_EQ(ask(client.get(), "a", fds), "gone") << "one more than there may be";
}

// Packets come in the order in which they were sent, whatever they bring.
TEST_F(BrokerLoop, OrderIsKept) {
    start({.bytes = 64});
    const auto client = connect();
    const int memory = ::memfd_create("x", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    std::string expected;
    for (int i = 0; i < 20; ++i) {
        const bool brings = i % 3 == 0;
        ASSERT_TRUE(send(client.get(), "a", std::span(&memory, brings ? 1U : 0U)));
        expected += brings ? "1" : "0";
    }
    (void)::close(memory);
    std::string answers;
    for (int i = 0; i < 20; ++i)
        answers += receive(client.get());
    EXPECT_EQ(answers, expected);
}

TEST_F(BrokerLoop, TooLongOrNotOfTheProtocol) {
    start({.bytes = 64});
    const auto fitting = connect();
    EXPECT_EQ(ask(fitting.get(), std::string(64, 'a')), "0");
    EXPECT_EQ(ask(fitting.get(), std::string(65, 'a')), "gone");
    const auto wrong = connect();
    EXPECT_EQ(ask(wrong.get(), "x"), "0");
    EXPECT_EQ(receive(wrong.get()), "gone");
}

// Many who connect at one time do not keep one who is there from its answer.
TEST_F(BrokerLoop, NewClientsTakeTurns) {
    start({.bytes = 64});
    const auto mine = connect();
    const auto holder = connect();
    ASSERT_EQ(ask(mine.get(), "a"), "0");
    hold_by(holder.get());
    std::vector<tool::Descriptor> crowd;
    for (int i = 0; i < 60; ++i) {
        crowd.push_back(connect());
        ASSERT_TRUE(crowd.back());
    }
    ASSERT_TRUE(send(mine.get(), "z"));
    std::string order;
    service_->go_on(order);
    EXPECT_EQ(receive(mine.get()), "0");
    EXPECT_EQ(ask(crowd.back().get(), "a"), "0");
    finish();
    EXPECT_LT(order.find('z'), 20U) << order;
}

// To look at a process takes ten times as long as to take its connection.
TEST_F(BrokerLoop, WhoSaysNothingIsNotLookedAt) {
    start({.bytes = 64});
    const auto mine = connect();
    const auto holder = connect();
    ASSERT_EQ(ask(mine.get(), "a"), "0");
    hold_by(holder.get());
    const auto silent = connect();
    for (int i = 0; i < 30; ++i)
        ASSERT_TRUE(connect());
    std::string order;
    service_->go_on(order);
    EXPECT_EQ(ask(mine.get(), "z"), "0");
    const auto last = connect(); // behind all of them
    EXPECT_EQ(ask(last.get(), "l"), "0");
    EXPECT_EQ(ask(silent.get(), "s"), "0");
    finish();
    EXPECT_EQ(order, "zclcs");
}

// A user has a hundred clients, each with a request on its way: a few of them are served in a
// round, so the other user's only request, which comes last, does not wait for all hundred.
TEST_F(BrokerLoop, UsersTakeTurns) {
    if (::geteuid() != 0)
        GTEST_SKIP() << "needs root, to be two users";
    start({.bytes = 64});
    Process other([this] {
        must(::setuid(65534), "setuid");
        for (int i = 0; i < 100; ++i) {
            flood.push_back(connect());
            EXPECT_EQ(ask(flood.back().get(), "a"), "0");
        }
    });
    other.call(+[] {}); // it is connected when it answers
    const auto mine = connect();
    const auto holder = connect();
    ASSERT_EQ(ask(mine.get(), "a"), "0");
    hold_by(holder.get());
    other.call(+[] {
        for (const tool::Descriptor &client : flood)
            EXPECT_TRUE(send(client.get(), "s"));
    });
    ASSERT_TRUE(send(mine.get(), "m"));
    std::string order;
    service_->go_on(order);
    EXPECT_EQ(receive(mine.get()), "0");
    finish();
    EXPECT_LE(order.find('m'), 8U) << order;
}

} // namespace

} // namespace upm::test
