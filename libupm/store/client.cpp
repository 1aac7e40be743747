// SPDX-License-Identifier: MIT
#include "libupm/store/client.hpp"

#include "libupm/base/descriptor_table.hpp"
#include "libupm/base/packet.hpp"
#include "libupm/base/system.hpp"
#include "libupm/store/reply.hpp"
#include "libupm/store/segment.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>
#include <utility>

namespace upm::store {

namespace {

// Above the numbers that programs and shells count on. Where a program may not have so many,
// there is no connection: it would be one that the program misses.
constexpr int kLowestFd = 100;

void sleep_ms(long ms) noexcept {
    timespec time{.tv_sec = 0, .tv_nsec = ms * 1'000'000};
    (void)::nanosleep(&time, nullptr);
}

template <class T>
std::span<std::byte> bytes_of(T &value) noexcept {
    return std::as_writable_bytes(std::span<T, 1>(&value, 1));
}

// Room for every reply of fixed size.
struct SmallReply {
    std::byte bytes[sizeof(StatsReply)];
};
static_assert(sizeof(SmallReply) >= sizeof(HelloReply) && sizeof(SmallReply) >= sizeof(GetReply) &&
              sizeof(SmallReply) >= sizeof(PublishReply) &&
              sizeof(SmallReply) >= sizeof(MakeReply));

// In every wait, a look this often whether it is still worth it.
constexpr int kLookMs = 20;

// How long connecting and sending may wait at a time.
void set_send_timeout(int fd, int ms) noexcept {
    const timeval timeout{.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000L};
    (void)::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
}

std::uint64_t inode_of(int fd) noexcept {
    struct stat status {};
    return ::fstat(fd, &status) == 0 && S_ISSOCK(status.st_mode) ? status.st_ino : 0;
}

} // namespace

// A reply, and the descriptor that came with it, closed unless released.
class Connection::Answer {
  public:
    Answer() noexcept = default;
    Answer(const Answer &) = delete;
    Answer &operator=(const Answer &) = delete;
    ~Answer() {
        if (fd_ >= 0)
            ::close(fd_);
    }
    Packet packet;
    void own(int fd) noexcept { fd_ = fd; }
    [[nodiscard]] int fd() const noexcept { return fd_; }
    int release() noexcept { return std::exchange(fd_, -1); }

  private:
    int fd_ = -1;
};

// Returns true if no wait is worth it any more.
bool Connection::is_over() const noexcept {
    return waits_ended() || (gate_ != nullptr && gate_->over());
}

// Takes a step again for which the broker had no room, as long as it is worth it.
template <class Step>
int Connection::patiently(int patience_ms, Step step) const noexcept {
    const std::uint64_t deadline = now_ms() + static_cast<std::uint64_t>(patience_ms);
    for (;;) {
        const int ret = step();
        if (ret != -EAGAIN)
            return ret;
        if (now_ms() >= deadline)
            return -ETIMEDOUT;
        if (is_over())
            return -ECANCELED;
    }
}

int Connection::connect(const SocketPath &path, int patience_ms) noexcept {
    int fd = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    const int high = ::fcntl(fd, F_DUPFD_CLOEXEC, kLowestFd);
    if (high >= 0 || descriptor_table() == 0) {
        ::close(fd);
        fd = high;
    }
    if (fd < 0)
        return -EMFILE;
    set_send_timeout(fd, std::clamp(patience_ms, 1, kLookMs));
    sockaddr_un address{};
    int ret = packet::fill_address(path.text, address);
    if (ret == 0)
        ret = patiently(patience_ms, [&] {
            const auto *const to = reinterpret_cast<const sockaddr *>(&address);
            return ::connect(fd, to, sizeof(address)) == 0 ? 0 : -errno;
        });
    if (ret == 0)
        ret = check_broker(fd, path);
    if (ret != 0) {
        ::close(fd);
        return ret;
    }
    fd_ = fd;
    inode_ = inode_of(fd);
    user_ = ::geteuid();
    return 0;
}

HelloRequest Connection::greeting() const noexcept {
    HelloRequest request{};
    request.page_size = static_cast<std::uint32_t>(page_size());
    request.named = domain_.named;
    std::memcpy(request.key, domain_.key, sizeof(request.key));
    std::memcpy(request.token, token_.data(), sizeof(request.token));
    return request;
}

// Says hello in one version. Version 2 does not know of others.
int Connection::greet(std::uint16_t version, int patience_ms) noexcept {
    version_ = version;
    HelloRequest request = greeting();
    const std::span<std::byte> packet =
        bytes_of(request).first(version == 2 ? kHelloRequestV2 : sizeof(request));
    SmallReply room;
    Answer answer;
    const int ret = exchange(packet, Op::kHello, room.bytes, answer, -1, patience_ms);
    return ret != 0 ? ret : read_hello(answer.packet, number_, seed_, version_);
}

int Connection::open(const SocketPath &path, const DomainKey &domain, int patience_ms) noexcept {
    domain_ = domain;
    int ret = connect(path, patience_ms);
    if (ret == 0)
        ret = greet(kVersion, patience_ms);
    if (ret == -ECONNRESET) { // by a broker of version 2, perhaps
        close();
        ret = connect(path, patience_ms);
        if (ret == 0)
            ret = greet(kOldestVersion, patience_ms);
    }
    if (ret != 0)
        close();
    return ret;
}

int Connection::open_known(const SocketPath &path, const DomainKey &domain,
                           const Terms &terms) noexcept {
    domain_ = domain;
    version_ = terms.version;
    seed_ = terms.seed;
    HelloRequest request = greeting();
    int ret = terms.version > 2 ? connect(path, 0) : -EOPNOTSUPP;
    if (ret == 0)
        ret = send(bytes_of(request), Op::kHello, -1, 0);
    if (ret != 0)
        close();
    else
        abandoned_ = number_;
    return ret;
}

bool Connection::abandon() noexcept {
    if (abandoned_ != 0)
        return false;
    abandoned_ = number_;
    return true;
}

// The answer to a request that nobody waited for comes before any other.
bool Connection::is_abandoned(std::span<const std::byte> packet) noexcept {
    Header header{};
    return abandoned_ != 0 && take(packet, header) &&
           header.number == std::exchange(abandoned_, 0U) && header.number != number_;
}

bool Connection::ours() const noexcept {
    return fd_ >= 0 && inode_of(fd_) == inode_;
}

bool Connection::alive() const noexcept {
    return ours() && user_ == ::geteuid();
}

void Connection::close() noexcept {
    if (ours())
        ::close(fd_);
    fd_ = -1;
    abandoned_ = 0;
}

int Connection::send(std::span<std::byte> packet, Op op, int fd, int patience_ms) noexcept {
    Header header{};
    header.version = version_;
    header.op = static_cast<std::uint16_t>(op);
    header.length = static_cast<std::uint32_t>(packet.size());
    header.number = ++number_;
    std::memcpy(packet.data(), &header, sizeof(header));

    const iovec part{.iov_base = packet.data(), .iov_len = packet.size()};
    return patiently(patience_ms, [&] {
        const int flags = patience_ms == 0 ? MSG_DONTWAIT : 0;
        return packet::send(fd_, {&part, 1}, {&fd, fd >= 0 ? 1U : 0U}, flags);
    });
}

int Connection::wait(int patience_ms) const noexcept {
    const std::uint64_t deadline = now_ms() + static_cast<std::uint64_t>(patience_ms);
    pollfd event{.fd = fd_, .events = POLLIN, .revents = 0};
    for (;;) {
        const std::uint64_t left = deadline - std::min(deadline, now_ms());
        if (is_over())
            return -ECANCELED;
        const int ready =
            ::poll(&event, 1, static_cast<int>(std::min<std::uint64_t>(kLookMs, left)));
        if (ready > 0)
            return 0;
        if (ready < 0 && errno != EINTR)
            return -errno;
        if (left == 0)
            return -ETIMEDOUT;
    }
}

// Waits for the answer to the last request.
int Connection::receive(std::span<std::byte> room, int patience_ms, Answer &answer) noexcept {
    int ret = wait(patience_ms);
    if (ret != 0)
        return ret;
    const iovec part{.iov_base = room.data(), .iov_len = room.size()};
    int fd = -1;
    packet::Received received;
    ret = packet::receive(fd_, {&part, 1}, {&fd, 1}, received, MSG_DONTWAIT);
    if (ret != 0)
        return ret;
    answer.own(fd);
    answer.packet = room.first(received.bytes);
    if (is_abandoned(answer.packet)) {
        Answer next;
        ret = receive(room, patience_ms, next);
        packet::close_all({&fd, fd >= 0 ? 1U : 0U});
        answer.own(next.release());
        answer.packet = next.packet;
        return ret;
    }
    return received.cut ? -EPROTO : 0;
}

int Connection::exchange(std::span<std::byte> request, Op op, std::span<std::byte> room,
                         Answer &answer, int fd, int patience_ms) noexcept {
    if (!alive())
        return -ECONNRESET;
    Outside outside(gate_);
    int ret = send(request, op, fd, patience_ms);
    if (ret == 0)
        ret = receive(room, patience_ms, answer);
    if (ret == -ECANCELED)
        close(); // the answer is still to come
    return outside.back() ? ret : -ECANCELED;
}

std::span<std::byte> Connection::lookup_packet(LookupRequest request,
                                               std::span<const std::uint64_t> hashes,
                                               std::span<std::byte> buffer) noexcept {
    request.count = static_cast<std::uint32_t>(hashes.size());
    const std::span<std::byte> packet = buffer.first(sizeof(request) + hashes.size_bytes());
    std::memcpy(packet.data(), &request, sizeof(request));
    std::memcpy(packet.data() + sizeof(request), hashes.data(), hashes.size_bytes());
    return packet;
}

// Without a descriptor, if there was no room for one: get() will say so.
int Connection::take_lookup(Answer &answer, std::span<Place> places,
                            Attached *attached) const noexcept {
    std::uint32_t pages = 0;
    const int ret = read_lookup(answer.packet, number_, places, pages);
    if (ret != 0 || attached == nullptr || pages == 0 || answer.fd() < 0)
        return ret;
    if (check_segment(answer.fd(), pages) != 0)
        return -EPROTO;
    *attached = {.fd = answer.release(), .pages = pages};
    return 0;
}

int Connection::lookup(std::span<const std::uint64_t> hashes, bool reserve, std::span<Place> places,
                       std::span<std::byte> buffer, Attached *attached, int patience_ms) noexcept {
    LookupRequest request{};
    request.flags =
        static_cast<std::uint16_t>((reserve ? kReserve : 0) | (attached != nullptr ? kAttach : 0));
    if (reserve && version_ > 2)
        request.patience_ms = kPatienceMs;
    Answer answer;
    const int ret =
        exchange(lookup_packet(request, hashes, buffer), Op::kLookup, buffer.first(kMaxPacket),
                 answer, -1, reserve ? patience_ms + kPatienceMs : patience_ms);
    return ret != 0 ? ret : take_lookup(answer, places, attached);
}

int Connection::begin_lookup(std::span<const std::uint64_t> hashes, bool remember,
                             std::span<std::byte> buffer) noexcept {
    if (!alive())
        return -ECONNRESET;
    LookupRequest request{};
    request.flags = static_cast<std::uint16_t>(kAttach | (version_ > 2 ? kCandidates : 0) |
                                               (remember && remembers() ? kRemember : 0));
    return send(lookup_packet(request, hashes, buffer), Op::kLookup, -1, 0);
}

int Connection::end_lookup(std::span<Place> places, std::span<std::byte> buffer, Attached &attached,
                           int patience_ms) noexcept {
    Answer answer;
    const int ret = alive() ? receive(buffer.first(kMaxPacket), patience_ms, answer) : -ECONNRESET;
    return ret != 0 ? ret : take_lookup(answer, places, &attached);
}

int Connection::begin_make(MakeRequest request, int file) noexcept {
    if (!alive())
        return -ECONNRESET;
    if (version_ < 3)
        return -EOPNOTSUPP;
    return send(bytes_of(request), Op::kMake, file, 0);
}

int Connection::end_make(std::uint32_t &segment, Attached &attached, int patience_ms) noexcept {
    SmallReply room;
    Answer answer;
    std::uint32_t pages = 0;
    int ret = alive() ? receive(room.bytes, patience_ms, answer) : -ECONNRESET;
    if (ret == 0)
        ret = read_make(answer.packet, number_, segment, pages);
    if (ret != 0)
        return ret;
    if (answer.fd() < 0 || check_segment(answer.fd(), pages) != 0)
        return -EPROTO;
    attached = {.fd = answer.release(), .pages = pages};
    return 0;
}

int Connection::late(LateRequest request, int file) noexcept {
    if (!alive())
        return -ECONNRESET;
    if (version_ < 6)
        return -EOPNOTSUPP;
    return send(bytes_of(request), Op::kLate, file, 0);
}

int Connection::get(std::uint32_t segment, int &fd, std::uint32_t &pages,
                    int patience_ms) noexcept {
    GetRequest request{};
    request.segment = segment;
    SmallReply room;
    Answer answer;
    fd = -1;
    int ret = exchange(bytes_of(request), Op::kGet, room.bytes, answer, -1, patience_ms);
    if (ret == 0)
        ret = read_get(answer.packet, number_, segment, pages);
    if (ret != 0)
        return ret;
    // Not sealed, or not as large as it says: never map it.
    if (answer.fd() < 0 || check_segment(answer.fd(), pages) != 0)
        return -EPROTO;
    fd = answer.release();
    return 0;
}

int Connection::publish(int fd, std::span<const std::uint64_t> hashes, std::uint32_t &segment,
                        std::span<std::byte> buffer) noexcept {
    PublishRequest request{};
    request.count = static_cast<std::uint32_t>(hashes.size());
    const std::span<std::byte> packet = buffer.first(sizeof(request) + hashes.size_bytes());
    std::memcpy(packet.data(), &request, sizeof(request));
    std::memcpy(packet.data() + sizeof(request), hashes.data(), hashes.size_bytes());
    SmallReply room;
    Answer answer;
    const int ret = exchange(packet, Op::kPublish, room.bytes, answer, fd);
    return ret != 0 ? ret : read_publish(answer.packet, number_, segment);
}

int Connection::release() noexcept {
    Header request{};
    SmallReply room;
    Answer answer;
    const int ret = exchange(bytes_of(request), Op::kRelease, room.bytes, answer);
    return ret != 0 ? ret : read_release(answer.packet, number_);
}

int Connection::report(std::uint32_t segment, std::int64_t pages) noexcept {
    ReportRequest request{};
    request.segment = segment;
    request.pages = pages;
    if (!alive())
        return -ECONNRESET;
    return send(bytes_of(request), Op::kReport, -1, 0);
}

int Connection::stats(StatsReply &stats) noexcept {
    Header request{};
    SmallReply room;
    Answer answer;
    const int ret = exchange(bytes_of(request), Op::kStats, room.bytes, answer);
    return ret != 0 ? ret : read_stats(answer.packet, number_, stats);
}

int Connection::seed(SeedRequest request, SeedReply &answer, std::span<SeedEntry> list,
                     std::span<std::byte> buffer) noexcept {
    if (!alive())
        return -ECONNRESET;
    if (version_ < 4)
        return -EOPNOTSUPP;
    Answer got;
    const int ret = exchange(bytes_of(request), Op::kSeed, buffer.first(kMaxPacket), got);
    return ret != 0 ? ret : read_seed(got.packet, number_, answer, list);
}

int Connection::metrics(std::span<std::byte> buffer) noexcept {
    Header request{};
    Answer answer;
    Packet text;
    int ret = exchange(bytes_of(request), Op::kMetrics, buffer.first(kMaxPacket), answer);
    if (ret == 0)
        ret = read_metrics(answer.packet, number_, text);
    if (ret != 0)
        return ret;
    std::memmove(buffer.data(), text.data(), text.size());
    return static_cast<int>(text.size());
}

int open_connection(Connection &connection, const SocketPath &path,
                    const DomainKey &domain) noexcept {
    if (only_looks() && starts_on_demand(path))
        return -ENOENT;
    int ret = connection.open(path, domain);
    if (ret != -ENOENT && ret != -ECONNREFUSED)
        return ret;
    const int started = start_broker(path);
    if (started < 0)
        return started == -ENOENT ? ret : started;
    // Another one may have to make its socket anew, which takes it a few ms. If it does not
    // do that at once, it will not do it later.
    const std::uint64_t deadline = now_ms() + (started == 0 ? kReplyMs : kOtherMs);
    for (long pause = 1; now_ms() < deadline && !waits_ended();
         pause = std::min<long>(2 * pause, kLookMs)) {
        ret = connection.open(path, domain);
        if (ret != -ENOENT && ret != -ECONNREFUSED)
            return ret;
        sleep_ms(pause);
    }
    return ret;
}

int reopen_connection(Connection &connection, const SocketPath &path) noexcept {
    const DomainKey domain = connection.domain();
    connection.close();
    Outside outside(connection.gate());
    const int ret = open_connection(connection, path, domain);
    return outside.back() ? ret : -ECANCELED;
}

} // namespace upm::store
