// SPDX-License-Identifier: MIT
//
// Threads that receive descriptors: what one user's do to them harms that user only.
#include "tools/broker/receiver.hpp"

#include "libupm/base/packet.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <memory>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include <vector>

namespace upm::test {

namespace {

using broker::Receiver;
using tool::Descriptor;

// For threads that may outlive the receiver.
std::atomic<bool> let_go{false};
std::atomic<int> hanging{0};

// Takes memory. Whoever looks at another file hangs until it is let go, as in the file system
// of a stranger.
bool is_memory(int fd) {
    if (broker::is_memfd(fd))
        return true;
    ++hanging;
    while (!let_go)
        (void)::usleep(1'000);
    --hanging;
    return false;
}

// A client's socket, with one packet on its way that brings a descriptor.
class Sender {
  public:
    explicit Sender(int fd) {
        std::array<int, 2> ends{};
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()), 0);
        own_ = Descriptor(ends[0]);
        its_ = Descriptor(ends[1]);
        char byte = 'a';
        const iovec part{.iov_base = &byte, .iov_len = 1};
        EXPECT_EQ(packet::send(own_.get(), {&part, 1}, {&fd, 1}), 0);
    }
    [[nodiscard]] int socket() const { return its_.get(); }

  private:
    Descriptor own_;
    Descriptor its_;
};

class BrokerReceiver : public testing::Test {
  protected:
    void SetUp() override {
        let_go = false;
        ASSERT_EQ(hanging, 0);
    }
    void TearDown() override {
        let_go = true;
        while (hanging != 0)
            (void)::usleep(1'000);
    }
    // Serves the threads until that is so. False: it is not within a minute.
    template <class Holds>
    bool serve_until(Holds holds) {
        for (int tries = 0; tries < 6'000 && !holds(); ++tries) {
            std::vector<pollfd> events;
            for (const int fd : channels_)
                events.push_back({.fd = fd, .events = POLLIN, .revents = 0});
            (void)::poll(events.data(), events.size(), 10);
            for (const pollfd &event : events)
                if (event.revents != 0)
                    (void)receiver_->ready(event.fd);
        }
        return holds();
    }
    void begin(const Receiver::Settings &settings) {
        receiver_ = std::make_unique<Receiver>(
            settings, [this](int fd) { channels_.push_back(fd); },
            [this](const Receiver::Received &received) { received_.push_back(received.client); });
    }
    [[nodiscard]] bool has(std::uint64_t client) const {
        return std::find(received_.begin(), received_.end(), client) != received_.end();
    }

    const Descriptor memory_{::memfd_create("x", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
    const Descriptor file_{::open("/dev/null", O_RDONLY | O_CLOEXEC)};
    std::vector<int> channels_;
    std::vector<std::uint64_t> received_; // clients
    std::unique_ptr<Receiver> receiver_;
};

TEST_F(BrokerReceiver, OneUserLeavesThreadsForOthers) {
    begin({.bytes = 64,
           .fds = 1,
           .welcome = is_memory,
           .threads = 4,
           .user_threads = 2,
           .hanging = 0,
           .patience_ms = 600'000});
    std::vector<Sender> senders;
    for (std::uint64_t client = 1; client <= 6; ++client) {
        senders.emplace_back(file_.get());
        EXPECT_TRUE(receiver_->receive(client, 1000, senders.back().socket()));
    }
    const Sender other(memory_.get());
    EXPECT_TRUE(receiver_->receive(7, 1001, other.socket()));
    EXPECT_TRUE(serve_until([&] { return has(7) || hanging > 2; }));
    EXPECT_TRUE(has(7));
    EXPECT_TRUE(serve_until([&] { return hanging == 2; })) << "two of its own at a time";
    let_go = true;
    EXPECT_TRUE(serve_until([&] { return received_.size() == 7; })) << "all is done in the end";
}

// A user whose threads hang is not waited for: its packets come without their descriptors.
TEST_F(BrokerReceiver, WhoseThreadsHangIsTold) {
    begin({.bytes = 64,
           .fds = 1,
           .welcome = is_memory,
           .threads = 2,
           .user_threads = 1,
           .hanging = 4,
           .patience_ms = 20});
    const Sender sender(file_.get());
    ASSERT_TRUE(receiver_->receive(1, 1000, sender.socket()));
    EXPECT_TRUE(serve_until([&] { return hanging == 1; }));
    const Sender again(file_.get());
    EXPECT_TRUE(serve_until([&] {
        const bool taken = receiver_->receive(2, 1000, again.socket());
        receiver_->forget(2); // the first one does not hang yet
        return !taken;
    }));
    const Sender other(memory_.get());
    EXPECT_TRUE(receiver_->receive(3, 1001, other.socket()));
    EXPECT_TRUE(serve_until([&] { return has(3); }));
    EXPECT_EQ(hanging, 1);
    let_go = true;
    EXPECT_TRUE(serve_until([&] { return has(1); }));
}

} // namespace

} // namespace upm::test
