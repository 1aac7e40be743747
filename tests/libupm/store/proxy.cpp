// SPDX-License-Identifier: MIT
#include "tests/libupm/store/proxy.hpp"

#include "libupm/base/packet.hpp"
#include "libupm/store/wire.hpp"

#include <csignal>
#include <cstddef>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <stdexcept>
#include <unistd.h>
#include <vector>

namespace upm::test {

namespace {

int open_socket(const std::string &path, bool listening) {
    sockaddr_un address{};
    if (packet::fill_address(path, address) != 0)
        throw std::runtime_error("path");
    const int made = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    const auto *const at = reinterpret_cast<const sockaddr *>(&address);
    const bool good = listening ? ::bind(made, at, sizeof(address)) == 0 && ::listen(made, 8) == 0
                                : ::connect(made, at, sizeof(address)) == 0;
    if (good)
        return made;
    (void)::close(made);
    return -1;
}

} // namespace

KillingProxy::KillingProxy(BrokerProcess &broker, int kill_at, Then then)
    : broker_(broker), kill_at_(kill_at), then_(then), listener_(open_socket(socket(), true)) {
    if (listener_ < 0 || ::pipe2(stop_, O_CLOEXEC) != 0)
        throw std::runtime_error("proxy");
    thread_ = std::thread([this] { serve(); });
}

KillingProxy::~KillingProxy() {
    (void)::close(stop_[1]);
    thread_.join();
    for (std::thread &relay : relays_)
        relay.join();
    (void)::close(stop_[0]);
    (void)::close(listener_);
}

// Without a broker it hangs up, as a dying one does.
void KillingProxy::serve() {
    for (;;) {
        pollfd events[2] = {{.fd = listener_, .events = POLLIN, .revents = 0},
                            {.fd = stop_[0], .events = POLLIN, .revents = 0}};
        if (::poll(events, 2, -1) < 0 || events[1].revents != 0)
            return;
        const int client = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
        const int broker = open_socket(broker_.socket(), false);
        relays_.emplace_back([this, client, broker] {
            if (broker >= 0)
                relay(client, broker);
            (void)::close(client);
            (void)::close(broker);
            // A broker that this thread has started again dies with it (fork_tied).
            pollfd stop{.fd = stop_[0], .events = POLLIN, .revents = 0};
            (void)::poll(&stop, 1, -1);
        });
    }
}

void KillingProxy::relay(int client, int broker) {
    for (;;) {
        pollfd events[3] = {{.fd = client, .events = POLLIN, .revents = 0},
                            {.fd = broker, .events = POLLIN, .revents = 0},
                            {.fd = stop_[0], .events = POLLIN, .revents = 0}};
        constexpr int kLookMs = 10; // whether another connection has frozen it
        if (::poll(frozen_ ? events + 2 : events, frozen_ ? 1 : 3, kLookMs) < 0 ||
            events[2].revents != 0)
            return;
        if (frozen_)
            continue;
        if (events[0].revents != 0 && !forward(client, broker))
            return;
        if (events[1].revents != 0 && !forward(broker, client))
            return;
    }
}

// Of greetings: the answer, which is shorter, says what comes of it.
void KillingProxy::make_older(std::span<std::byte> packet) const {
    store::HelloRequest hello{};
    if (newest_ == 0 || packet.size() < sizeof(hello))
        return;
    std::memcpy(&hello, packet.data(), sizeof(hello));
    if (hello.header.op != static_cast<std::uint16_t>(store::Op::kHello))
        return;
    hello.header.version = hello.newest = newest_;
    std::memcpy(packet.data(), &hello, sizeof(hello));
}

bool KillingProxy::forward(int from, int to) {
    std::vector<std::byte> room(store::kMaxPacket);
    const iovec whole{.iov_base = room.data(), .iov_len = room.size()};
    int fds[1] = {-1};
    packet::Received received;
    if (packet::receive(from, {&whole, 1}, fds, received) != 0)
        return false;
    if (++packets_ == kill_at_) {
        packet::close_all(std::span(fds).first(received.fds));
        killed_ = true;
        if (then_ == Then::kFreeze) {
            frozen_ = true;
            return true;
        }
        (void)broker_.stop(SIGKILL);
        if (then_ == Then::kRestart)
            broker_.start();
        return false;
    }
    make_older(std::span(room).first(received.bytes));
    const iovec part{.iov_base = room.data(), .iov_len = received.bytes};
    const bool sent = packet::send(to, {&part, 1}, std::span(fds).first(received.fds)) == 0;
    packet::close_all(std::span(fds).first(received.fds));
    return sent;
}

} // namespace upm::test
