// SPDX-License-Identifier: MIT
//
// Packets between a program and strangers: descriptors that come along, packets that are
// cut, peers that are gone.
#include "libupm/base/packet.hpp"
#include "tests/support/support.hpp"

#include <array>
#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <string>
#include <sys/resource.h>
#include <unistd.h>

namespace upm::test {

namespace {

class PacketTest : public testing::Test {
  protected:
    void SetUp() override {
        ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()), 0);
    }
    void TearDown() override { packet::close_all(ends); }

    int send(std::size_t bytes, std::span<const int> fds = {}) {
        const iovec part{.iov_base = text.data(), .iov_len = bytes};
        return packet::send(ends[0], {&part, 1}, fds);
    }
    int receive(std::size_t room, std::span<int> fds = {}) {
        const iovec part{.iov_base = text.data(), .iov_len = room};
        return packet::receive(ends[1], {&part, 1}, fds, received, MSG_DONTWAIT);
    }
    // The lowest number that is free.
    static int lowest() {
        const int fd = ::dup(STDERR_FILENO);
        (void)::close(fd);
        return fd;
    }

    std::array<int, 2> ends{};
    std::array<char, 64> text{};
    packet::Received received;
};

TEST_F(PacketTest, DescriptorsAreTheReceivers) {
    const std::array<int, 2> sent = {STDIN_FILENO, STDERR_FILENO};
    std::array<int, 3> got{};
    ASSERT_EQ(send(5, sent), 0);
    ASSERT_EQ(receive(5, got), 0);
    EXPECT_EQ(received.bytes, 5U);
    EXPECT_EQ(received.fds, 2U);
    EXPECT_FALSE(received.cut);
    EXPECT_FALSE(received.fds_cut);
    for (const int fd : {got[0], got[1]}) {
        EXPECT_GT(fd, STDERR_FILENO);
        EXPECT_EQ(::fcntl(fd, F_GETFD), FD_CLOEXEC) << "no program that is started gets it";
        (void)::close(fd);
    }
}

// Each number of descriptors for which there is room, alignment or not.
TEST_F(PacketTest, NoMoreDescriptorsThanThereIsRoomFor) {
    const std::array<int, 6> sent = {0, 0, 0, 0, 0, 0};
    for (std::size_t room = 0; room < sent.size(); ++room) {
        const int before = lowest();
        std::array<int, 6> got{};
        ASSERT_EQ(send(1, sent), 0);
        ASSERT_EQ(receive(1, std::span(got).first(room)), 0);
        EXPECT_EQ(received.fds, room);
        EXPECT_TRUE(received.fds_cut);
        packet::close_all(std::span(got).first(room));
        EXPECT_EQ(lowest(), before) << "room for " << room;
    }
}

TEST_F(PacketTest, DescriptorsThatThisProcessMayNotHold) {
    rlimit before{};
    ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
    const std::array<int, 3> sent = {0, 0, 0};
    std::array<int, 3> got{};
    ASSERT_EQ(send(1, sent), 0);
    const rlimit few{.rlim_cur = static_cast<rlim_t>(lowest()) + 1, .rlim_max = before.rlim_max};
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &few), 0);
    const int ret = receive(1, got);
    (void)::setrlimit(RLIMIT_NOFILE, &before);
    ASSERT_EQ(ret, 0);
    EXPECT_EQ(received.fds, 1U);
    EXPECT_TRUE(received.fds_cut);
    (void)::close(got[0]);
}

TEST_F(PacketTest, TooManyDescriptorsAreRefused) {
    const std::array<int, packet::kMaxFds + 1> many{};
    EXPECT_EQ(send(1, many), -EINVAL);
    EXPECT_EQ(send(1, std::span(many).first(packet::kMaxFds)), 0);
}

TEST_F(PacketTest, LongerThanThereIsRoom) {
    ASSERT_EQ(send(6), 0);
    ASSERT_EQ(receive(5), 0);
    EXPECT_EQ(received.bytes, 5U);
    EXPECT_TRUE(received.cut);
    EXPECT_EQ(receive(5), -EAGAIN) << "the rest is gone";
    ASSERT_EQ(send(5), 0);
    ASSERT_EQ(receive(5), 0);
    EXPECT_FALSE(received.cut);
}

// A broker that ends kills no program: there is no signal.
TEST_F(PacketTest, PeerThatIsGone) {
    (void)::close(ends[1]);
    EXPECT_EQ(send(1), -ECONNRESET);
    (void)::close(ends[0]);
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()), 0);
    (void)::close(ends[0]);
    EXPECT_EQ(receive(1), -ECONNRESET);
    ends[0] = -1;
}

// Linux raises SIGPIPE for streams only. Another kernel below a container may do it for
// packets, too, as POSIX has it.
TEST_F(PacketTest, PeerThatIsGoneRaisesNoSignal) {
    packet::close_all(ends);
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
    (void)::close(ends[1]);
    EXPECT_EQ(in_child([&] {
                  (void)std::signal(SIGPIPE, SIG_DFL);
                  return send(1) == -ECONNRESET ? 0 : 1;
              }),
              0);
    ends[1] = -1;
}

TEST_F(PacketTest, PathsThatFitAnAddress) {
    sockaddr_un address{};
    EXPECT_EQ(packet::fill_address(std::string(107, 'x'), address), 0);
    EXPECT_EQ(address.sun_path[107], '\0');
    EXPECT_EQ(packet::fill_address(std::string(108, 'x'), address), -ENAMETOOLONG);
}

} // namespace

} // namespace upm::test
