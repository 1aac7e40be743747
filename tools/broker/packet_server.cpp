// SPDX-License-Identifier: MIT
#include "tools/broker/packet_server.hpp"

#include "libupm/base/packet.hpp"

#include <array>
#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <system_error>

namespace upm::broker {

namespace {

[[noreturn]] void fail(const char *what) {
    throw std::system_error(errno, std::generic_category(), what);
}

Descriptor checked(int fd, const char *what) {
    if (fd < 0)
        fail(what);
    return Descriptor(fd);
}

sigset_t ending_signals() noexcept {
    sigset_t signals;
    (void)::sigemptyset(&signals);
    (void)::sigaddset(&signals, SIGTERM);
    (void)::sigaddset(&signals, SIGINT);
    return signals;
}

Descriptor watched_signals() {
    const sigset_t signals = ending_signals();
    return checked(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK), "signalfd");
}

Descriptor spare() noexcept {
    return Descriptor(::open("/dev/null", O_RDONLY | O_CLOEXEC));
}

} // namespace

void block_signals() noexcept {
    const sigset_t signals = ending_signals();
    (void)::sigprocmask(SIG_BLOCK, &signals, nullptr);
    (void)std::signal(SIGPIPE, SIG_IGN);
}

std::uint64_t raise_file_limit() noexcept {
    rlimit limit{};
    if (::getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return 0;
    const rlim_t before = limit.rlim_cur;
    limit.rlim_cur = limit.rlim_max;
    return ::setrlimit(RLIMIT_NOFILE, &limit) == 0 ? limit.rlim_max : before;
}

PacketServer::PacketServer(Descriptor listener, const PacketLimits &limits, Service &service)
    : limits_(limits), service_(service), listener_(std::move(listener)),
      epoll_(checked(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")), signals_(watched_signals()),
      spare_(spare()), buffer_(limits.bytes) {
    watch(listener_.get());
    watch(signals_.get());
}

void PacketServer::watch(int fd) const {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0)
        fail("epoll_ctl");
}

void PacketServer::accept_all() {
    for (;;) {
        Descriptor socket(
            ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        if (socket) {
            admit(std::move(socket));
            continue;
        }
        if (errno == EINTR || errno == ECONNABORTED)
            continue;
        if (errno != EMFILE && errno != ENFILE)
            return; // EAGAIN, or nothing that could be done about it
        // Refused at once, instead of waiting in the queue for ever.
        spare_ = Descriptor();
        const bool any = static_cast<bool>(
            Descriptor(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK)));
        spare_ = spare();
        if (!any)
            return;
    }
}

void PacketServer::admit(Descriptor socket) {
    ucred peer{};
    if (packet::peer_of(socket.get(), peer) != 0 || clients_.size() >= limits_.clients)
        return;
    const auto user = users_.find(peer.uid);
    if (user != users_.end() && user->second >= limits_.user_clients)
        return;
    const int fd = socket.get();
    watch(fd);
    const ClientId id = service_.connect(peer);
    ++users_[peer.uid];
    sockets_[id] = fd;
    clients_.emplace(fd, Client{.socket = std::move(socket), .id = id, .uid = peer.uid});
}

void PacketServer::disconnect(int socket) {
    const auto found = clients_.find(socket);
    if (found == clients_.end())
        return;
    const Client client = std::move(found->second);
    clients_.erase(found);
    sockets_.erase(client.id);
    if (--users_[client.uid] == 0)
        users_.erase(client.uid);
    service_.disconnect(client.id);
}

void PacketServer::read_client(int socket) {
    const auto client = clients_.find(socket);
    if (client == clients_.end())
        return;
    const iovec part{.iov_base = buffer_.data(), .iov_len = buffer_.size()};
    std::array<int, packet::kMaxFds> numbers{};
    packet::Received received;
    const int ret = packet::receive(socket, {&part, 1}, std::span(numbers).first(limits_.fds),
                                    received, MSG_DONTWAIT);
    if (ret == -EAGAIN)
        return;
    std::vector<Descriptor> fds;
    fds.reserve(received.fds);
    for (const int fd : std::span(numbers).first(received.fds))
        fds.emplace_back(fd);
    // A packet that is too long is none of ours. One whose descriptors were lost is,
    // since this process may hold no more of them, and the service tells its sender.
    const bool too_many = received.fds_cut && received.fds == limits_.fds;
    if (ret != 0 || received.cut || too_many ||
        !service_.handle(client->second.id, std::span(buffer_).first(received.bytes),
                         std::move(fds), received.fds_cut))
        broken_.push_back(socket);
}

// A client that does not take its answers has only itself to blame: each has few
// requests under way, and the buffer of a socket takes several answers.
void PacketServer::send(ClientId id, std::span<const std::byte> packet, std::span<const int> fds) {
    const auto found = sockets_.find(id);
    if (found == sockets_.end())
        return;
    const iovec part{.iov_base = const_cast<std::byte *>(packet.data()), .iov_len = packet.size()};
    if (packet::send(found->second, {&part, 1}, fds, MSG_DONTWAIT) != 0)
        broken_.push_back(found->second);
}

void PacketServer::end(ClientId id) {
    if (const auto found = sockets_.find(id); found != sockets_.end())
        broken_.push_back(found->second);
}

// Whether there were any. Ending one may answer others, which may turn out to be
// broken as well.
bool PacketServer::end_broken() {
    const bool any = !broken_.empty();
    while (!broken_.empty()) {
        const int socket = broken_.back();
        broken_.pop_back();
        disconnect(socket);
    }
    return any;
}

void PacketServer::run() {
    std::array<epoll_event, 64> events{};
    for (;;) {
        const std::optional<int> patience = service_.tick();
        if (!patience)
            return;
        if (end_broken())
            continue; // there may be more to do now
        const int ready = ::epoll_wait(epoll_.get(), events.data(), events.size(), *patience);
        if (ready < 0 && errno != EINTR)
            fail("epoll_wait");
        for (int i = 0; i < ready; ++i) {
            const int fd = events.at(static_cast<std::size_t>(i)).data.fd;
            if (fd == signals_.get())
                return;
            if (fd == listener_.get())
                accept_all();
            else
                read_client(fd);
        }
        (void)end_broken();
    }
}

} // namespace upm::broker
