// SPDX-License-Identifier: MIT
#include "tools/broker/packet_server.hpp"

#include "libupm/base/packet.hpp"
#include "libupm/base/system.hpp"

#include <algorithm>
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

// Says if the next packet of a socket brings descriptors, and leaves all where it is.
bool brings_descriptors(int socket) noexcept {
    std::byte first{};
    iovec part{.iov_base = &first, .iov_len = sizeof(first)};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    return ::recvmsg(socket, &message, MSG_PEEK | MSG_DONTWAIT) > 0 &&
           (message.msg_flags & MSG_CTRUNC) != 0;
}

// Returns true if nothing is there, and nothing will come.
bool has_gone(int socket) noexcept {
    std::byte first{};
    const ssize_t got = ::recv(socket, &first, sizeof(first), MSG_PEEK | MSG_DONTWAIT);
    return got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR);
}

constexpr std::size_t kOtherEvents = 64; // than those of clients
constexpr unsigned kTurn = 8;            // packets of one user in a round
constexpr unsigned kArrivals = 128;      // in a round, of which nothing is known yet

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
      spare_(spare()), receiver_(
                           {.bytes = limits.bytes, .fds = limits.fds, .welcome = limits.welcome},
                           [this](int fd) { watch(fd); },
                           [this](Receiver::Received received) { take(std::move(received)); }),
      buffer_(limits.bytes), events_(limits.clients + kOtherEvents) {
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

void PacketServer::unwatch(int fd) const {
    (void)::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd, nullptr);
}

void PacketServer::also_watch(int fd, std::function<void()> ready) {
    watch(fd);
    others_.emplace(fd, std::move(ready));
}

void PacketServer::listen_to(Descriptor listener) {
    unwatch(listener_.get());
    listener_ = std::move(listener);
    watch(listener_.get());
}

// No more than some: who connects without end must not keep the clients waiting. The others
// come in the next round.
void PacketServer::accept_some() {
    for (unsigned i = 0; i < kArrivals; ++i) {
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
        socket =
            Descriptor(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        const bool any = static_cast<bool>(socket);
        refuse(std::move(socket));
        spare_ = spare();
        if (!any)
            return;
    }
}

void PacketServer::refuse(Descriptor socket) {
    ucred peer{};
    if (packet::peer_of(socket.get(), peer) == 0)
        service_.refused(peer.uid, "the broker can open no more files");
}

void PacketServer::admit(Descriptor socket) {
    ucred peer{};
    if (has_gone(socket.get()))
        return;
    if (packet::peer_of(socket.get(), peer) != 0)
        return;
    if (clients_.size() >= limits_.clients)
        return service_.refused(peer.uid, "all users together have as many connections as may be");
    const auto user = users_.find(peer.uid);
    if (user != users_.end() && user->second >= limits_.user_clients)
        return service_.refused(peer.uid, "it has as many connections as one user may");
    const int fd = socket.get();
    watch(fd);
    ++users_[peer.uid];
    clients_.emplace(fd, Client{.socket = std::move(socket), .peer = peer, .id = std::nullopt});
}

// False: it sent nothing, and has gone.
bool PacketServer::enter(Client &client) {
    const int socket = client.socket.get();
    if (client.id)
        return true;
    if (has_gone(socket)) {
        broken_.push_back(socket);
        return false;
    }
    client.id = service_.connect(socket, client.peer);
    sockets_[*client.id] = socket;
    return true;
}

void PacketServer::disconnect(int socket) {
    const auto found = clients_.find(socket);
    if (found == clients_.end())
        return;
    const Client client = std::move(found->second);
    clients_.erase(found);
    if (--users_[client.peer.uid] == 0)
        users_.erase(client.peer.uid);
    if (!client.id)
        return;
    receiver_.forget(*client.id);
    sockets_.erase(*client.id);
    service_.disconnect(*client.id);
}

// Receives a packet and no descriptors: the kernel drops what came with it, which unlike
// a close asks nobody.
void PacketServer::read_plainly(const Client &client, bool fds_lost) {
    const iovec part{.iov_base = buffer_.data(), .iov_len = buffer_.size()};
    packet::Received received;
    const int ret = packet::receive(client.socket.get(), {&part, 1}, {}, received, MSG_DONTWAIT);
    if (ret == -EAGAIN)
        return;
    Attachments none;
    none.lost = fds_lost;
    if (ret != 0 || received.cut ||
        !service_.handle(*client.id, std::span(buffer_).first(received.bytes), std::move(none)))
        broken_.push_back(client.socket.get());
}

void PacketServer::read_client(int socket) {
    const auto client = clients_.find(socket);
    if (client == clients_.end())
        return;
    if (!brings_descriptors(socket)) {
        read_plainly(client->second, false);
        return;
    }
    const uid_t uid = client->second.peer.uid;
    if (service_.accepts(uid) && receiver_.receive(*client->second.id, uid, socket))
        unwatch(socket); // until it has been received
    else
        read_plainly(client->second, true);
}

void PacketServer::take(Receiver::Received received) {
    const auto socket = sockets_.find(received.client);
    if (socket == sockets_.end())
        return; // it has gone meanwhile
    const Client &client = clients_.at(socket->second);
    watch(socket->second);
    if (received.error == -EBUSY)
        read_plainly(client, true);
    else if (received.error == -EAGAIN)
        return;
    else if (received.error != 0 ||
             !service_.handle(*client.id, received.packet, std::move(received.attachments)))
        broken_.push_back(socket->second);
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

// One packet of each client that has sent any, but only a few of each user: the others
// come in the next round, behind those of other users.
void PacketServer::serve_round(int ready) {
    std::unordered_map<uid_t, unsigned> served;
    for (int i = 0; i < ready; ++i) {
        const int fd = events_[static_cast<std::size_t>(i)].data.fd;
        if (fd == listener_.get()) {
            accept_some();
        } else if (const auto other = others_.find(fd); other != others_.end()) {
            other->second();
        } else if (const auto client = clients_.find(fd); client != clients_.end()) {
            if (served[client->second.peer.uid] < kTurn && enter(client->second)) {
                ++served[client->second.peer.uid];
                read_client(fd);
            }
        } else {
            (void)receiver_.ready(fd);
        }
    }
}

int PacketServer::wait(int patience) {
    const int threads = receiver_.tick(now_ms());
    if (threads >= 0)
        patience = patience < 0 ? threads : std::min(threads, patience);
    const int ready =
        ::epoll_wait(epoll_.get(), events_.data(), static_cast<int>(events_.size()), patience);
    if (ready < 0 && errno != EINTR)
        fail("epoll_wait");
    return ready;
}

void PacketServer::run() {
    for (;;) {
        const std::optional<int> patience = service_.tick();
        if (!patience)
            return;
        if (end_broken())
            continue; // there may be more to do now
        const int ready = wait(*patience);
        for (int i = 0; i < ready; ++i)
            if (events_[static_cast<std::size_t>(i)].data.fd == signals_.get())
                return;
        serve_round(ready);
        (void)end_broken();
    }
}

} // namespace upm::broker
