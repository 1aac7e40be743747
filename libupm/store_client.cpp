// SPDX-License-Identifier: MIT
#include "libupm/store_client.hpp"

#include "libupm/store_segment.hpp"

#include <cerrno>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

namespace upm::store {

namespace {

// Above the numbers that programs and shells count on.
constexpr int kLowestFd = 100;

std::int64_t now_ms() noexcept {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::int64_t>(now.tv_sec) * 1000 + now.tv_nsec / 1'000'000;
}

void sleep_ms(long ms) noexcept {
    timespec time{.tv_sec = 0, .tv_nsec = ms * 1'000'000};
    (void)::nanosleep(&time, nullptr);
}

template <class T>
std::span<std::byte> bytes_of(T &value) noexcept {
    return std::as_writable_bytes(std::span<T, 1>(&value, 1));
}

// The descriptors of a packet: the first one, and all others closed.
int take_descriptor(msghdr &message) noexcept {
    int found = -1;
    for (cmsghdr *part = CMSG_FIRSTHDR(&message); part != nullptr;
         part = CMSG_NXTHDR(&message, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
            continue;
        const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (std::size_t i = 0; i < count; ++i) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(fd));
            if (found < 0)
                found = fd;
            else
                ::close(fd);
        }
    }
    return found;
}

// Who listens: a broker of this user or of root. Anyone else could have put the
// socket there to learn what this process holds.
int check_peer(int fd) noexcept {
    ucred peer{};
    socklen_t size = sizeof(peer);
    if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0)
        return -errno;
    return peer.uid == ::geteuid() || peer.uid == 0 ? 0 : -EACCES;
}

std::uint64_t inode_of(int fd) noexcept {
    struct stat status {};
    return ::fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode) ? status.st_ino : 0;
}

} // namespace

int Connection::connect(const SocketPath &path) noexcept {
    int fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    const int high = ::fcntl(fd, F_DUPFD_CLOEXEC, kLowestFd);
    if (high >= 0) {
        ::close(fd);
        fd = high;
    }
    const timeval patience{.tv_sec = kReplyMs / 1000, .tv_usec = 0};
    (void)::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.text, sizeof(address.sun_path));
    int ret = 0;
    if (::connect(fd, reinterpret_cast<const sockaddr *>(&address), sizeof(address)) != 0)
        ret = errno == EAGAIN ? -ETIMEDOUT : -errno;
    if (ret == 0)
        ret = check_peer(fd);
    if (ret != 0) {
        ::close(fd);
        return ret;
    }
    fd_ = fd;
    inode_ = inode_of(fd);
    return 0;
}

int Connection::hello() noexcept {
    HelloRequest request{};
    request.page_size = static_cast<std::uint32_t>(::sysconf(_SC_PAGESIZE));
    request.named = domain_.named;
    std::memcpy(request.key, domain_.key, sizeof(request.key));
    HelloReply reply{};
    std::span<const std::byte> body;
    const int ret = exchange(bytes_of(request), Op::kHello, bytes_of(reply), body);
    if (ret != 0)
        return ret;
    if (body.size() != sizeof(reply) - sizeof(reply.reply))
        return -EPROTO;
    seed_ = reply.seed;
    return 0;
}

int Connection::open(const SocketPath &path, const DomainKey &domain) noexcept {
    domain_ = domain;
    int ret = connect(path);
    if (ret == 0)
        ret = hello();
    if (ret != 0)
        close();
    return ret;
}

bool Connection::alive() const noexcept {
    return fd_ >= 0 && inode_of(fd_) == inode_;
}

void Connection::close() noexcept {
    if (alive())
        ::close(fd_);
    fd_ = -1;
}

int Connection::send(std::span<std::byte> packet, Op op, int fd) noexcept {
    Header header{};
    header.op = static_cast<std::uint16_t>(op);
    header.length = static_cast<std::uint32_t>(packet.size());
    header.number = ++number_;
    std::memcpy(packet.data(), &header, sizeof(header));

    iovec vector{.iov_base = packet.data(), .iov_len = packet.size()};
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
    for (;;) {
        if (::sendmsg(fd_, &message, MSG_NOSIGNAL) >= 0)
            return 0;
        if (errno == EPIPE)
            return -ECONNRESET;
        if (errno != EINTR)
            return errno == EAGAIN ? -ETIMEDOUT : -errno;
    }
}

// Waits for the reply to the last request. Post: `body` is what follows the
// reply's header, and *fd the descriptor that came along, or -1.
int Connection::receive(std::span<std::byte> packet, Op op, int patience_ms, int *fd,
                        std::span<const std::byte> &body) noexcept {
    const std::int64_t deadline = now_ms() + patience_ms;
    pollfd event{.fd = fd_, .events = POLLIN, .revents = 0};
    for (;;) {
        const std::int64_t left = deadline - now_ms();
        const int ready = left > 0 ? ::poll(&event, 1, static_cast<int>(left)) : 0;
        if (ready > 0)
            break;
        if (ready == 0)
            return -ETIMEDOUT;
        if (errno != EINTR)
            return -errno;
    }
    iovec vector{.iov_base = packet.data(), .iov_len = packet.size()};
    alignas(cmsghdr) std::byte control[CMSG_SPACE(4 * sizeof(int))];
    msghdr message{};
    message.msg_iov = &vector;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    ssize_t got = -1;
    do
        got = ::recvmsg(fd_, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    while (got < 0 && errno == EINTR);
    if (got <= 0)
        return got == 0 ? -ECONNRESET : -errno;
    const int received = take_descriptor(message);

    std::span<const std::byte> rest = packet.first(static_cast<std::size_t>(got));
    ReplyHeader reply{};
    const bool good = (message.msg_flags & MSG_TRUNC) == 0 && take(rest, reply) &&
                      reply.header.magic == kMagic && reply.header.version == kVersion &&
                      reply.header.op == static_cast<std::uint16_t>(op) &&
                      reply.header.number == number_ &&
                      reply.header.length == static_cast<std::uint32_t>(got) && reply.error <= 0;
    if (fd != nullptr && good && reply.error == 0)
        *fd = received;
    else if (received >= 0)
        ::close(received);
    body = rest;
    return good ? reply.error : -EPROTO;
}

int Connection::exchange(std::span<std::byte> request, Op op, std::span<std::byte> reply,
                         std::span<const std::byte> &body, int *fd, int patience_ms) noexcept {
    if (!alive())
        return -ECONNRESET;
    const int ret = send(request, op, -1);
    return ret != 0 ? ret : receive(reply, op, patience_ms, fd, body);
}

int Connection::lookup(std::span<const std::uint64_t> hashes, bool reserve, std::span<Place> places,
                       std::span<std::byte> buffer) noexcept {
    LookupRequest request{};
    request.flags = reserve ? kReserve : 0U;
    request.count = static_cast<std::uint32_t>(hashes.size());
    const std::span<std::byte> packet = buffer.first(sizeof(request) + hashes.size_bytes());
    std::memcpy(packet.data(), &request, sizeof(request));
    std::memcpy(packet.data() + sizeof(request), hashes.data(), hashes.size_bytes());
    std::span<const std::byte> body;
    const int ret = exchange(packet, Op::kLookup, buffer.first(kMaxPacket), body, nullptr,
                             reserve ? kPublishMs : kReplyMs);
    if (ret != 0)
        return ret;
    std::uint32_t counts[2] = {}; // count, reserved
    if (!take(body, counts) || counts[0] != hashes.size() ||
        !take_all(body, places.data(), counts[0]))
        return -EPROTO;
    return 0;
}

int Connection::get(std::uint32_t segment, int &fd, std::uint32_t &pages) noexcept {
    GetRequest request{};
    request.segment = segment;
    GetReply reply{};
    std::span<const std::byte> body;
    fd = -1;
    int ret = exchange(bytes_of(request), Op::kGet, bytes_of(reply), body, &fd);
    if (ret != 0)
        return ret;
    // Not sealed, or not as large as it says: never map it.
    if (fd < 0 || body.size() != sizeof(reply) - sizeof(reply.reply) || reply.segment != segment ||
        reply.pages == 0 || reply.pages > kMaxPages || check_segment(fd, reply.pages) != 0)
        ret = -EPROTO;
    if (ret != 0 && fd >= 0) {
        ::close(fd);
        fd = -1;
    }
    pages = reply.pages;
    return ret;
}

int Connection::publish(int fd, std::span<const std::uint64_t> hashes, std::uint32_t &segment,
                        std::span<std::byte> buffer) noexcept {
    PublishRequest request{};
    request.count = static_cast<std::uint32_t>(hashes.size());
    const std::span<std::byte> packet = buffer.first(sizeof(request) + hashes.size_bytes());
    std::memcpy(packet.data(), &request, sizeof(request));
    std::memcpy(packet.data() + sizeof(request), hashes.data(), hashes.size_bytes());
    if (!alive())
        return -ECONNRESET;
    int ret = send(packet, Op::kPublish, fd);
    if (ret != 0)
        return ret;
    PublishReply reply{};
    std::span<const std::byte> body;
    ret = receive(bytes_of(reply), Op::kPublish, kReplyMs, nullptr, body);
    if (ret == 0 && (body.size() != sizeof(reply) - sizeof(reply.reply) || reply.segment == 0 ||
                     reply.segment > kLastSegment))
        ret = -EPROTO;
    segment = reply.segment;
    return ret;
}

int Connection::release() noexcept {
    Header request{};
    ReplyHeader reply{};
    std::span<const std::byte> body;
    return exchange(bytes_of(request), Op::kRelease, bytes_of(reply), body);
}

int Connection::report(std::uint32_t segment, std::int64_t pages) noexcept {
    ReportRequest request{};
    request.segment = segment;
    request.pages = pages;
    return alive() ? send(bytes_of(request), Op::kReport, -1) : -ECONNRESET;
}

int Connection::stats(StatsReply &stats) noexcept {
    Header request{};
    std::span<const std::byte> body;
    const int ret = exchange(bytes_of(request), Op::kStats, bytes_of(stats), body);
    return ret == 0 && body.size() != sizeof(stats) - sizeof(stats.reply) ? -EPROTO : ret;
}

int Connection::metrics(std::span<std::byte> buffer) noexcept {
    Header request{};
    std::span<const std::byte> body;
    const int ret = exchange(bytes_of(request), Op::kMetrics, buffer.first(kMaxPacket), body);
    if (ret != 0)
        return ret;
    std::memmove(buffer.data(), body.data(), body.size());
    return static_cast<int>(body.size());
}

int open_connection(Connection &connection, const SocketPath &path,
                    const DomainKey &domain) noexcept {
    int ret = connection.open(path, domain);
    if (ret != -ENOENT && ret != -ECONNREFUSED)
        return ret;
    const int started = start_broker(path);
    if (started != 0)
        return started == -ENOENT ? ret : started;
    // It listens after a few ms, on a busy machine after many.
    const std::int64_t deadline = now_ms() + kReplyMs;
    for (long pause = 1; now_ms() < deadline; pause = pause < 50 ? pause * 2 : pause) {
        ret = connection.open(path, domain);
        if (ret != -ENOENT && ret != -ECONNREFUSED)
            return ret;
        sleep_ms(pause);
    }
    return ret;
}

std::uint64_t ConnectionPool::word(State state) noexcept {
    return static_cast<std::uint64_t>(::getpid()) << 8U | state;
}

// Takes a slot that is idle, or one that is empty. What is in a slot of another
// process came here by fork: its number is forgotten and the descriptor kept. The
// process stands in the word, since not every way to fork runs fork handlers.
bool ConnectionPool::take(std::size_t slot, bool idle) noexcept {
    std::uint64_t seen = slots_[slot].word.load();
    const bool own = seen == word(kIdle) || seen == word(kBusy);
    if (idle ? seen != word(kIdle) : own)
        return false;
    if (!slots_[slot].word.compare_exchange_strong(seen, word(kBusy)))
        return false;
    if (!idle)
        at(slot) = Connection();
    return true;
}

int ConnectionPool::acquire(const SocketPath &path, const DomainKey &domain,
                            std::size_t &slot) noexcept {
    for (slot = 0; slot < kSlots; ++slot) {
        if (!take(slot, true))
            continue;
        if (at(slot).domain() == domain && at(slot).alive())
            return 0;
        put_back(slot);
    }
    for (const bool idle : {false, true}) {
        for (slot = 0; slot < kSlots; ++slot) {
            if (!take(slot, idle))
                continue;
            at(slot).close();
            const int ret = open_connection(at(slot), path, domain);
            if (ret != 0)
                put_back(slot);
            return ret;
        }
    }
    return -EAGAIN;
}

int ConnectionPool::reopen(const SocketPath &path, std::size_t slot) noexcept {
    const DomainKey domain = at(slot).domain();
    at(slot).close();
    return open_connection(at(slot), path, domain);
}

void ConnectionPool::put_back(std::size_t slot) noexcept {
    slots_[slot].word.store(word(at(slot).alive() ? kIdle : kEmpty));
}

} // namespace upm::store
