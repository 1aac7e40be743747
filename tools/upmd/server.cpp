// SPDX-License-Identifier: MIT
#include "tools/upmd/server.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <system_error>
#include <unistd.h>

namespace upm::upmd {

namespace {

constexpr std::uint64_t kMetricsMs = 10'000;

[[noreturn]] void fail(const char *what) {
    throw std::system_error(errno, std::generic_category(), what);
}

Descriptor checked(int fd, const char *what) {
    if (fd < 0)
        fail(what);
    return Descriptor(fd);
}

std::uint64_t now_ms() {
    timespec now{};
    (void)::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1000U +
           static_cast<std::uint64_t>(now.tv_nsec) / 1'000'000U;
}

std::uint64_t random_seed() {
    std::uint64_t seed = 0;
    if (::getrandom(&seed, sizeof(seed), 0) != static_cast<ssize_t>(sizeof(seed)))
        fail("getrandom");
    return seed;
}

Descriptor watched_signals() {
    sigset_t signals;
    (void)::sigemptyset(&signals);
    (void)::sigaddset(&signals, SIGTERM);
    (void)::sigaddset(&signals, SIGINT);
    return checked(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK), "signalfd");
}

// The descriptors of a packet: exactly one, or none. More than that is a fault of
// the client; they are closed.
Descriptor take_descriptor(msghdr &message, bool &too_many) {
    Descriptor found;
    for (cmsghdr *part = CMSG_FIRSTHDR(&message); part != nullptr;
         part = CMSG_NXTHDR(&message, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
            continue;
        const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (std::size_t i = 0; i < count; ++i) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(fd));
            Descriptor one(fd);
            too_many = too_many || found;
            if (!found)
                found = std::move(one);
        }
    }
    return found;
}

} // namespace

Server::Server(Descriptor listener, const Settings &settings)
    : settings_(settings), listener_(std::move(listener)),
      epoll_(checked(::epoll_create1(EPOLL_CLOEXEC), "epoll_create1")), signals_(watched_signals()),
      spare_(::open("/dev/null", O_RDONLY | O_CLOEXEC)),
      broker_(
          settings.limits,
          [this](ClientId id, std::span<const std::byte> packet, int fd) { send(id, packet, fd); },
          random_seed) {
    watch(listener_.get());
    watch(signals_.get());
}

void Server::watch(int fd) const {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0)
        fail("epoll_ctl");
}

void Server::accept_all() {
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
        const Descriptor refused(
            ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
        const bool any = static_cast<bool>(refused);
        spare_ = Descriptor(::open("/dev/null", O_RDONLY | O_CLOEXEC));
        if (!any)
            return;
    }
}

void Server::admit(Descriptor socket) {
    ucred peer{};
    socklen_t size = sizeof(peer);
    if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 ||
        clients_.size() >= settings_.max_clients || users_[peer.uid] >= settings_.max_user_clients)
        return;
    const int fd = socket.get();
    watch(fd);
    const ClientId id = broker_.connect(peer.uid);
    ++users_[peer.uid];
    sockets_[id] = fd;
    clients_.emplace(fd, Client{.socket = std::move(socket), .id = id, .uid = peer.uid});
}

void Server::disconnect(int socket) {
    const auto found = clients_.find(socket);
    if (found == clients_.end())
        return;
    const Client client = std::move(found->second);
    clients_.erase(found);
    sockets_.erase(client.id);
    if (--users_[client.uid] == 0)
        users_.erase(client.uid);
    broker_.disconnect(client.id, now_ms());
}

void Server::read_client(int socket) {
    static std::array<std::byte, store::kMaxPacket> buffer;
    iovec vector{.iov_base = buffer.data(), .iov_len = buffer.size()};
    alignas(cmsghdr) std::byte control[CMSG_SPACE(4 * sizeof(int))];
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    const ssize_t got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    bool too_many = false;
    Descriptor fd = got > 0 ? take_descriptor(message, too_many) : Descriptor();
    const auto client = clients_.find(socket);
    // A packet that is too long is none of ours. One whose descriptor was lost
    // (MSG_CTRUNC: we may hold no more) is, and gets an answer.
    if (got <= 0 || client == clients_.end() || too_many || (message.msg_flags & MSG_TRUNC) != 0 ||
        !broker_.handle(client->second.id, std::span(buffer).first(static_cast<std::size_t>(got)),
                        std::move(fd), now_ms()))
        broken_.push_back(socket);
}

// A client that does not take its answers has only itself to blame: each has one
// request under way, and the buffer of a socket takes several answers.
void Server::send(ClientId id, std::span<const std::byte> packet, int fd) {
    const auto found = sockets_.find(id);
    if (found == sockets_.end())
        return;
    iovec vector{.iov_base = const_cast<std::byte *>(packet.data()), .iov_len = packet.size()};
    alignas(cmsghdr) std::byte control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    if (fd >= 0) {
        message.msg_control = control;
        message.msg_controllen = sizeof(control);
        cmsghdr *const part = CMSG_FIRSTHDR(&message);
        part->cmsg_level = SOL_SOCKET;
        part->cmsg_type = SCM_RIGHTS;
        part->cmsg_len = CMSG_LEN(sizeof(int));
        std::memcpy(CMSG_DATA(part), &fd, sizeof(fd));
    }
    ssize_t sent = -1;
    do
        sent = ::sendmsg(found->second, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (sent < 0 && errno == EINTR);
    if (sent < 0)
        broken_.push_back(found->second);
}

// Ending one may answer others, which may turn out to be broken as well.
void Server::end_broken() {
    while (!broken_.empty()) {
        const int socket = broken_.back();
        broken_.pop_back();
        disconnect(socket);
    }
}

// Complete or not at all: a collector may read at any time.
void Server::write_metrics() const {
    const std::string fresh = settings_.metrics_file + ".new";
    std::FILE *const file = std::fopen(fresh.c_str(), "we");
    if (file == nullptr) {
        fmt::print(stderr, "upmd: {}: {}\n", fresh, std::strerror(errno));
        return;
    }
    const std::string text = broker_.metrics(0);
    const bool good = std::fwrite(text.data(), 1, text.size(), file) == text.size();
    if (std::fclose(file) != 0 || !good ||
        std::rename(fresh.c_str(), settings_.metrics_file.c_str()) != 0)
        fmt::print(stderr, "upmd: {}: {}\n", settings_.metrics_file, std::strerror(errno));
}

int Server::wait_ms(std::uint64_t now, std::uint64_t expiry) {
    constexpr std::uint64_t kNever = ~std::uint64_t{0};
    std::uint64_t next = expiry != 0 ? expiry : kNever;
    idle_since_ = !broker_.idle() ? 0 : idle_since_ != 0 ? idle_since_ : now;
    if (idle_since_ != 0 && settings_.idle_exit_ms != 0)
        next = std::min(next, idle_since_ + settings_.idle_exit_ms);
    if (!settings_.metrics_file.empty())
        next = std::min(next, metrics_at_);
    if (next == kNever)
        return -1;
    constexpr std::uint64_t kLongest = 3'600'000;
    return static_cast<int>(std::min(kLongest, next - std::min(next, now)));
}

void Server::run() {
    std::array<epoll_event, 64> events{};
    for (;;) {
        const std::uint64_t expiry = broker_.expire(now_ms());
        end_broken();
        const std::uint64_t now = now_ms();
        if (!settings_.metrics_file.empty() && metrics_at_ <= now) {
            write_metrics();
            metrics_at_ = now + kMetricsMs;
        }
        const int patience = wait_ms(now, expiry);
        if (idle_since_ != 0 && settings_.idle_exit_ms != 0 &&
            now >= idle_since_ + settings_.idle_exit_ms)
            return;
        const int ready = ::epoll_wait(epoll_.get(), events.data(), events.size(), patience);
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
        end_broken();
    }
}

} // namespace upm::upmd
