// SPDX-License-Identifier: MIT
#include "cuda-cow/broker/client.hpp"

#include "cuda-cow/driver/driver.hpp"
#include "libupm/base/broker_socket.hpp"
#include "libupm/base/packet.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

namespace upm::cuda::broker {

// A call of one thread. What others released meanwhile is sent before and afterwards.
class Client::Turn {
  public:
    explicit Turn(Client &client) : client_(client) {
        client_.lock_.lock();
        while (client_.has_released() && client_.send_some_released()) {
        }
    }
    Turn(const Turn &) = delete;
    Turn &operator=(const Turn &) = delete;
    ~Turn() {
        client_.lock_.unlock();
        client_.send_released();
    }

  private:
    Client &client_;
};

Client::Client(Settings settings) : settings_(std::move(settings)), pid_(::getpid()) {}

Client::~Client() {
    disconnect();
}

int Client::check_process() const {
    if (pid_ == ::getpid())
        return 0;
    return fail(ENODEV, "the connection to upm-cudad is process %d's: CUDA does not survive a fork",
                static_cast<int>(pid_));
}

bool Client::hung_up() const {
    pollfd ready{.fd = socket_, .events = 0, .revents = 0};
    return ::poll(&ready, 1, 0) != 0;
}

std::uint64_t Client::live_connection() {
    if (check_process() != 0)
        return 0;
    const Turn turn(*this);
    return socket_ >= 0 && !hung_up() ? connection_ : 0;
}

void Client::disconnect() {
    if (socket_ >= 0)
        ::close(socket_);
    socket_ = -1;
}

int Client::connect() {
    if (socket_ >= 0 && hung_up())
        disconnect();
    if (socket_ >= 0)
        return 0;
    sockaddr_un address = {};
    if (packet::fill_address(settings_.socket, address) != 0)
        return fail(ENAMETOOLONG, "upm-cudad's socket: %s is too long", settings_.socket.c_str());
    socket_ = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (socket_ < 0)
        return fail(errno, "no socket: %s", std::strerror(errno));
    const timeval limit{.tv_sec = settings_.timeout_ms / 1000,
                        .tv_usec = static_cast<suseconds_t>(settings_.timeout_ms % 1000 * 1000)};
    (void)::setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    (void)::setsockopt(socket_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (::connect(socket_, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0) {
        const int error = errno == ENOENT ? ECONNREFUSED : errno;
        disconnect();
        return fail(error, "no upm-cudad at %s: %s. Start it: upm-cudad --socket %s",
                    settings_.socket.c_str(), std::strerror(error), settings_.socket.c_str());
    }
    SocketPath path;
    (void)settings_.socket.copy(path.text, sizeof path.text - 1);
    if (check_broker(socket_, path) != 0) {
        disconnect();
        return fail(EACCES, "upm-cudad at %s is another user's: it would get this memory",
                    settings_.socket.c_str());
    }
    ++connection_;
    return greet();
}

// A broker that does not take this member is left: what is said to it next would mean
// nothing to it.
int Client::greet() {
    Message request;
    request.header.type = Type::kHello;
    Hello hello;
    std::copy(std::begin(settings_.domain), std::end(settings_.domain), hello.domain);
    std::copy(std::begin(settings_.device), std::end(settings_.device), hello.device);
    request.append(hello);
    Message answer;
    if (const int error = call(request, Type::kWelcome, answer); error != 0) {
        disconnect();
        return error;
    }
    if (!answer.holds<Welcome>(1)) {
        disconnect();
        return fail(EPROTO, "upm-cudad at %s: bad welcome", settings_.socket.c_str());
    }
    welcome_ = *answer.items<Welcome>();
    return 0;
}

int Client::call(const Message &request, Type expected, Message &answer, bool *lost) {
    int error = send_message(socket_, request);
    if (error == 0)
        error = receive_message(socket_, answer);
    if (error == 0 && answer.header.type != expected) {
        close_fds(answer);
        error = EPROTO;
    }
    if (error != 0) {
        // What it still would have said must not be taken for a later answer.
        disconnect();
        error = error == EAGAIN ? ETIMEDOUT : error;
        if (lost != nullptr)
            *lost = true;
        return fail(error, "upm-cudad at %s: %s", settings_.socket.c_str(), std::strerror(error));
    }
    if (answer.header.error != 0) {
        close_fds(answer);
        return fail(answer.header.error, "upm-cudad refused: %s",
                    std::strerror(answer.header.error));
    }
    if (expected != Type::kFound)
        close_fds(answer); // nothing else brings any
    return 0;
}

int Client::welcome(Welcome &welcome) {
    if (const int error = check_process(); error != 0)
        return error;
    const Turn turn(*this);
    if (const int error = connect(); error != 0)
        return error;
    welcome = welcome_;
    return 0;
}

void Client::take(Message &answer, std::vector<Found> &found) {
    std::size_t next = 0;
    for (std::size_t i = 0; i < answer.header.count; ++i) {
        const Answer &one = answer.items<Answer>()[i];
        Found item{.state = one.state, .lease = {connection_, one.id}};
        if (one.state == State::kShared && next < answer.fd_count)
            item.fd = answer.fds[next++];
        found.push_back(item);
    }
    packet::close_all(std::span(answer.fds).subspan(next, answer.fd_count - next));
}

int Client::find(const std::vector<Content> &contents, std::vector<Found> &found) {
    if (const int error = check_process(); error != 0)
        return error;
    const Turn turn(*this);
    found.clear();
    if (const int error = connect(); error != 0)
        return error;
    Message request;
    request.header.type = Type::kFind;
    for (const Content &content : contents)
        request.append(content);
    Message answer;
    if (const int error = call(request, Type::kFound, answer); error != 0)
        return error;
    if (!answer.holds<Answer>(contents.size())) {
        close_fds(answer);
        disconnect();
        return fail(EPROTO, "upm-cudad: %u answers to %zu questions", answer.header.count,
                    contents.size());
    }
    take(answer, found);
    return 0;
}

int Client::find_or_wait(const Content &content, Found &found) {
    if (const int error = check_process(); error != 0)
        return error;
    const Turn turn(*this);
    if (const int error = connect(); error != 0)
        return error;
    Message request;
    request.header.type = Type::kFind;
    request.header.wait = 1;
    request.append(content);
    Message answer;
    if (const int error = call(request, Type::kFound, answer); error != 0)
        return error;
    std::vector<Found> all;
    if (!answer.holds<Answer>(1)) {
        close_fds(answer);
        disconnect();
        return fail(EPROTO, "upm-cudad: bad answer");
    }
    take(answer, all);
    found = all.front();
    return 0;
}

int Client::publish(const std::vector<Lease> &reservations, const std::vector<int> &fds,
                    bool &taken) {
    if (const int error = check_process(); error != 0)
        return error;
    const Turn turn(*this);
    taken = false;
    Message request;
    request.header.type = Type::kPublish;
    for (std::size_t i = 0; i < reservations.size(); ++i) {
        if (socket_ < 0 || reservations[i].connection != connection_)
            return fail(EPIPE, "upm-cudad was lost before it could take the extents");
        request.append(reservations[i].id);
        request.fds[request.fd_count++] = fds[i];
    }
    Message answer;
    bool lost = false;
    const int error = call(request, Type::kDone, answer, &lost);
    taken = error == 0 || lost;
    return error;
}

int Client::abandon(const std::vector<Lease> &reservations) {
    if (const int error = check_process(); error != 0)
        return error;
    const Turn turn(*this);
    for (std::size_t start = 0; start < reservations.size(); start += kMaxItems) {
        Message request;
        request.header.type = Type::kAbandon;
        for (std::size_t i = start; i < std::min(reservations.size(), start + kMaxItems); ++i)
            if (socket_ >= 0 && reservations[i].connection == connection_)
                request.append(reservations[i].id);
        Message answer;
        const int error = request.header.count == 0 ? 0 : call(request, Type::kDone, answer);
        if (error != 0)
            return error;
    }
    return 0;
}

void Client::release(const std::vector<Lease> &leases) {
    if (check_process() != 0)
        return;
    if (leases.empty())
        return;
    {
        const std::lock_guard<std::mutex> guard(released_lock_);
        released_.insert(released_.end(), leases.begin(), leases.end());
    }
    send_released();
}

bool Client::has_released() {
    const std::lock_guard<std::mutex> guard(released_lock_);
    return !released_.empty();
}

// Whoever holds the lock looks again after giving it back: nothing is left lying that was
// put there too late for one and too early for the other.
void Client::send_released() {
    while (has_released()) {
        const std::unique_lock<std::mutex> guard(lock_, std::try_to_lock);
        if (!guard.owns_lock() || !send_some_released())
            return;
    }
}

// False if the socket takes no more now.
bool Client::send_some_released() {
    Message request;
    request.header.type = Type::kRelease;
    std::size_t count = 0;
    const std::lock_guard<std::mutex> guard(released_lock_);
    for (; count < released_.size() && request.header.count < kMaxItems; ++count)
        if (socket_ >= 0 && released_[count].connection == connection_)
            request.append(released_[count].id);
    const int error = request.header.count == 0 ? 0 : send_message(socket_, request, MSG_DONTWAIT);
    if (error == EAGAIN)
        return false;
    if (error != 0)
        disconnect(); // all leases have ended
    released_.erase(released_.begin(), released_.begin() + static_cast<std::ptrdiff_t>(count));
    return true;
}

int Client::counters(Counters &counters) {
    if (const int error = check_process(); error != 0)
        return error;
    const Turn turn(*this);
    if (const int error = connect(); error != 0)
        return error;
    Message request;
    request.header.type = Type::kStats;
    Message answer;
    if (const int error = call(request, Type::kCounters, answer); error != 0)
        return error;
    if (!answer.holds<Counters>(1)) {
        disconnect();
        return fail(EPROTO, "upm-cudad: bad counters");
    }
    counters = *answer.items<Counters>();
    return 0;
}

} // namespace upm::cuda::broker
