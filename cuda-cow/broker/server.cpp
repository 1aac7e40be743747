// SPDX-License-Identifier: MIT
#include "cuda-cow/broker/server.hpp"

#include <algorithm>
#include <cerrno>

namespace upm::cuda::broker {

namespace {

using upm::broker::ClientId;
using upm::broker::Descriptor;

Time now() {
    return std::chrono::steady_clock::now();
}

// Who knows a key shares with whoever knows it; without one, with the same user.
std::string domain_name(const Hello &hello, uid_t uid) {
    const bool has_key = std::any_of(std::begin(hello.domain), std::end(hello.domain),
                                     [](std::uint8_t byte) { return byte != 0; });
    if (!has_key)
        return "uid:" + std::to_string(uid);
    return "key:" + std::string(reinterpret_cast<const char *>(hello.domain), sizeof hello.domain);
}

} // namespace

Server::Server(Descriptor listener, const Limits &limits)
    : store_(limits),
      loop_(std::move(listener),
            {.bytes = kMaxPacket, .fds = kMaxItems, .welcome = upm::broker::is_memory_or_device},
            *this) {}

ClientId Server::connect(int /*socket*/, const ucred &peer) {
    const Member member = next_member_++;
    peers_.emplace(member, Peer{.uid = peer.uid, .domain = {}, .waiting = {}});
    return member;
}

void Server::disconnect(ClientId id) {
    store_.leave(id);
    peers_.erase(id);
}

bool Server::handle(ClientId id, std::span<const std::byte> packet,
                    upm::broker::Attachments attachments) {
    std::vector<Descriptor> &fds = attachments.fds;
    Message request;
    Peer &peer = peers_.at(id);
    if (!unpack(packet, request))
        return false;
    if (request.header.type == Type::kPublish && !peer.domain.empty())
        return publish(id, request, std::move(fds), attachments.lost || attachments.unwelcome);
    if (!fds.empty() || attachments.unwelcome)
        return false; // nobody else may send any
    switch (request.header.type) {
    case Type::kHello:
        return hello(id, peer, request);
    case Type::kStats:
        counters(id);
        return true;
    case Type::kFind:
        return find(id, peer, request);
    case Type::kAbandon:
    case Type::kRelease:
        return !peer.domain.empty() && give_back(id, request);
    default:
        return false;
    }
}

// Answers those whose content is now decided, or promised for too long.
std::optional<int> Server::tick() {
    bool waiting = false;
    for (auto &[member, peer] : peers_) {
        if (peer.waiting)
            answer_waiting(member, peer);
        waiting = waiting || peer.waiting.has_value();
    }
    const std::optional<Time> overdue = store_.next_overdue();
    if (!waiting || !overdue)
        return -1;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(*overdue - now());
    // At least 1: the oldest may be overdue already, with nobody waiting for it.
    return static_cast<int>(std::max<std::int64_t>(left.count(), 1));
}

void Server::reply(Member member, Message &message, Type type, int error) {
    message.header.type = type;
    message.header.error = error;
    std::byte packet[kMaxPacket];
    loop_.send(member, std::span(packet).first(pack(message, packet)),
               std::span(message.fds).first(message.fd_count));
}

bool Server::hello(Member member, Peer &peer, const Message &request) {
    if (!request.holds<Hello>(1))
        return false;
    const Hello &wanted = *request.items<Hello>();
    Message answer;
    Welcome welcome;
    if (wanted.version != kVersion) {
        reply(member, answer, Type::kWelcome, EPROTONOSUPPORT);
        return true;
    }
    const std::string domain = domain_name(wanted, peer.uid);
    const int error = store_.join(member, domain, wanted.device, welcome, peer.uid);
    if (error == 0)
        peer.domain = domain;
    answer.append(welcome);
    reply(member, answer, Type::kWelcome, error);
    return true;
}

bool Server::find(Member member, Peer &peer, const Message &request) {
    const std::size_t count = request.header.count;
    if (peer.domain.empty() || !request.holds<Content>(count) || count == 0)
        return false;
    if (request.header.wait != 0) {
        if (count != 1 || store_.holds_reservation(member))
            return false;
        peer.waiting = *request.items<Content>();
        return true; // tick() answers
    }
    Message answer;
    for (std::size_t i = 0; i < count; ++i) {
        int fd = -1;
        answer.append(store_.find(member, request.items<Content>()[i], now(), fd));
        if (fd >= 0)
            answer.fds[answer.fd_count++] = fd;
    }
    reply(member, answer, Type::kFound);
    return true;
}

void Server::answer_waiting(Member member, Peer &peer) {
    Message answer;
    int fd = -1;
    const Answer found = store_.find(member, *peer.waiting, now(), fd);
    if (found.state == State::kBusy)
        return;
    peer.waiting.reset();
    answer.append(found);
    if (fd >= 0)
        answer.fds[answer.fd_count++] = fd;
    reply(member, answer, Type::kFound);
}

bool Server::publish(Member member, const Message &request, std::vector<Descriptor> fds,
                     bool fds_lost) {
    const std::size_t count = request.header.count;
    if (!request.holds<Id>(count) || count == 0 || (fds.size() != count && !fds_lost))
        return false;
    // Too few descriptors left here, or a limit: all or nothing, since what is refused
    // becomes writable again at the sender's.
    int error = fds.size() != count ? EMFILE : 0;
    for (std::size_t i = 0; i < count && error == 0; ++i)
        error = store_.publish(member, request.items<Id>()[i], fds[i].release());
    for (std::size_t i = 0; i < count && error != 0; ++i) {
        store_.unpublish(member, request.items<Id>()[i]);
        (void)store_.abandon(member, request.items<Id>()[i]);
    }
    Message answer;
    reply(member, answer, Type::kDone, error);
    return true;
}

bool Server::give_back(Member member, const Message &request) {
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
    reply(member, answer, Type::kDone, error);
    return true;
}

void Server::counters(Member member) {
    Message answer;
    answer.append(store_.counters());
    reply(member, answer, Type::kCounters);
}

} // namespace upm::cuda::broker
