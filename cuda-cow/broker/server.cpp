// SPDX-License-Identifier: MIT
#include "cuda-cow/broker/server.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <vector>

namespace upm::cuda::broker {

namespace {

// Each extent costs a descriptor.
void raise_descriptor_limit() {
    rlimit limit = {};
    if (::getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)::setrlimit(RLIMIT_NOFILE, &limit);
    }
}

int fill_address(const std::string &path, sockaddr_un &address) {
    if (path.size() >= sizeof address.sun_path)
        return ENAMETOOLONG;
    address.sun_family = AF_UNIX;
    path.copy(address.sun_path, path.size());
    return 0;
}

bool answers(const sockaddr_un &address) {
    const int probe = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    const bool connected =
        probe >= 0 &&
        ::connect(probe, reinterpret_cast<const sockaddr *>(&address), sizeof address) == 0;
    if (probe >= 0)
        ::close(probe);
    return connected;
}

// Who knows a key shares with whoever knows it; without one, with the same user.
std::string domain_name(const Hello &hello, uid_t uid) {
    const bool has_key = std::any_of(std::begin(hello.domain), std::end(hello.domain),
                                     [](std::uint8_t byte) { return byte != 0; });
    if (!has_key)
        return "uid:" + std::to_string(uid);
    return "key:" + std::string(reinterpret_cast<const char *>(hello.domain), sizeof hello.domain);
}

bool reply(int socket, Message &message, Type type, int error = 0) {
    message.header.type = type;
    message.header.error = error;
    return send_message(socket, message) == 0;
}

} // namespace

Server::~Server() {
    for (auto &[member, peer] : peers_)
        ::close(peer.socket);
    if (listener_ >= 0) {
        ::close(listener_);
        (void)::unlink(path_.c_str());
    }
}

int Server::listen(const std::string &path, unsigned mode) {
    raise_descriptor_limit();
    sockaddr_un address = {};
    if (const int error = fill_address(path, address); error != 0)
        return error;
    if (answers(address))
        return EADDRINUSE;
    (void)::unlink(path.c_str());
    const int made = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (made < 0)
        return errno;
    if (::bind(made, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0 ||
        ::chmod(path.c_str(), mode) != 0 || ::listen(made, 128) != 0) {
        const int error = errno;
        ::close(made);
        return error;
    }
    listener_ = made;
    path_ = path;
    return 0;
}

int Server::run(int stop_fd) {
    for (;;) {
        std::vector<pollfd> sockets{{stop_fd, POLLIN, 0}, {listener_, POLLIN, 0}};
        std::vector<Member> members;
        for (const auto &[member, peer] : peers_) {
            sockets.push_back({peer.socket, POLLIN, 0});
            members.push_back(member);
        }
        if (::poll(sockets.data(), sockets.size(), -1) < 0) {
            if (errno == EINTR)
                continue;
            return errno;
        }
        if (sockets[0].revents != 0)
            return 0;
        for (std::size_t i = 0; i < members.size(); ++i)
            if (sockets[i + 2].revents != 0 && !serve(members[i], peers_.at(members[i])))
                drop(members[i]);
        wake();
        if (sockets[1].revents != 0)
            accept_peer();
    }
}

void Server::accept_peer() {
    const int socket = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (socket < 0)
        return;
    // A member that does not read its answers must not stop the others.
    const timeval limit{.tv_sec = 1, .tv_usec = 0};
    (void)::setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    peers_.emplace(next_member_++, Peer{.socket = socket, .domain = {}, .waiting = {}});
}

void Server::drop(Member member) {
    ::close(peers_.at(member).socket);
    store_.leave(member);
    peers_.erase(member);
}

bool Server::serve(Member member, Peer &peer) {
    Message request;
    if (receive_message(peer.socket, request) != 0)
        return false;
    if (request.header.type == Type::kPublish && !peer.domain.empty())
        return publish(member, peer, request);
    close_fds(request); // nobody else may send any
    if (request.header.type == Type::kHello)
        return hello(member, peer, request);
    if (request.header.type == Type::kStats)
        return counters(peer);
    if (peer.domain.empty())
        return false;
    switch (request.header.type) {
    case Type::kFind:
        return find(member, peer, request);
    case Type::kAbandon:
    case Type::kRelease:
        return give_back(member, peer, request);
    default:
        return false;
    }
}

bool Server::hello(Member member, Peer &peer, const Message &request) {
    ucred sender = {};
    socklen_t length = sizeof sender;
    if (!request.holds<Hello>(1) ||
        ::getsockopt(peer.socket, SOL_SOCKET, SO_PEERCRED, &sender, &length) != 0)
        return false;
    const Hello &wanted = *request.items<Hello>();
    Message answer;
    Welcome welcome;
    if (wanted.version != kVersion)
        return reply(peer.socket, answer, Type::kWelcome, EPROTONOSUPPORT);
    const std::string domain = domain_name(wanted, sender.uid);
    const int error = store_.join(member, domain, wanted.device, welcome);
    if (error == 0)
        peer.domain = domain;
    answer.append(welcome);
    return reply(peer.socket, answer, Type::kWelcome, error);
}

bool Server::find(Member member, Peer &peer, const Message &request) {
    const std::size_t count = request.header.count;
    if (!request.holds<Content>(count) || count == 0)
        return false;
    if (request.header.wait != 0) {
        if (count != 1 || store_.holds_reservation(member))
            return false;
        peer.waiting = *request.items<Content>();
        return answer_waiting(member, peer);
    }
    Message answer;
    for (std::size_t i = 0; i < count; ++i) {
        int fd = -1;
        answer.append(store_.find(member, request.items<Content>()[i], fd));
        if (fd >= 0)
            answer.fds[answer.fd_count++] = fd;
    }
    return reply(peer.socket, answer, Type::kFound);
}

bool Server::answer_waiting(Member member, Peer &peer) {
    Message answer;
    int fd = -1;
    const Answer found = store_.find(member, *peer.waiting, fd);
    if (found.state == State::kBusy)
        return true;
    peer.waiting.reset();
    answer.append(found);
    if (fd >= 0)
        answer.fds[answer.fd_count++] = fd;
    return reply(peer.socket, answer, Type::kFound);
}

void Server::wake() {
    std::vector<Member> waiting;
    for (const auto &[member, peer] : peers_)
        if (peer.waiting)
            waiting.push_back(member);
    for (const Member member : waiting)
        if (!answer_waiting(member, peers_.at(member)))
            drop(member);
}

bool Server::publish(Member member, Peer &peer, Message &request) {
    const std::size_t count = request.header.count;
    if (!request.holds<Id>(count) || count == 0 || request.fd_count != count) {
        const bool cut = request.fds_cut; // too few descriptors left here
        close_fds(request);
        if (!cut || !request.holds<Id>(count))
            return false;
        Message answer;
        for (std::size_t i = 0; i < count; ++i)
            (void)store_.abandon(member, request.items<Id>()[i]);
        return reply(peer.socket, answer, Type::kDone, EMFILE);
    }
    int error = 0;
    for (std::size_t i = 0; i < count; ++i)
        if (error == 0) {
            error = store_.publish(member, request.items<Id>()[i], request.fds[i]);
        } else {
            ::close(request.fds[i]);
            (void)store_.abandon(member, request.items<Id>()[i]);
        }
    // All or nothing: what was refused becomes writable again at the sender's.
    if (error != 0)
        for (std::size_t i = 0; i < count; ++i)
            store_.unpublish(member, request.items<Id>()[i]);
    Message answer;
    return reply(peer.socket, answer, Type::kDone, error);
}

bool Server::give_back(Member member, Peer &peer, const Message &request) {
    const std::size_t count = request.header.count;
    if (!request.holds<Id>(count))
        return false;
    int error = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const Id id = request.items<Id>()[i];
        const int one = request.header.type == Type::kAbandon ? store_.abandon(member, id)
                                                              : store_.release(member, id);
        error = error != 0 ? error : one;
    }
    if (request.header.type == Type::kRelease)
        return true;
    Message answer;
    return reply(peer.socket, answer, Type::kDone, error);
}

bool Server::counters(Peer &peer) {
    Message answer;
    answer.append(store_.counters());
    return reply(peer.socket, answer, Type::kCounters);
}

} // namespace upm::cuda::broker
