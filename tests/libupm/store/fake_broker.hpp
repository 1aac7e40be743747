// SPDX-License-Identifier: MIT
//
// A broker that does what no real one does: it dies in the middle, lies and sends nonsense.
#ifndef UPM_TESTS_LIBUPM_STORE_FAKE_BROKER_HPP
#define UPM_TESTS_LIBUPM_STORE_FAKE_BROKER_HPP

#include "libupm/base/packet.hpp"
#include "tests/libupm/store/fixture.hpp"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

namespace upm::test {

template <class T>
std::vector<std::byte> bytes(const T &value) {
    std::vector<std::byte> reply(sizeof(value));
    std::memcpy(reply.data(), &value, sizeof(value));
    return reply;
}

// A broker that answers as a test likes; -1 for the answer's size: it dies.
class FakeBroker {
  public:
    using Answer =
        std::function<void(store::Op op, std::vector<std::byte> &reply, int &fd, bool &die)>;

    explicit FakeBroker(Answer answer) : answer_(std::move(answer)) {
        listener_ = ::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        (void)socket().copy(address.sun_path, sizeof(address.sun_path) - 1);
        if (::bind(listener_, reinterpret_cast<sockaddr *>(&address), sizeof(address)) != 0 ||
            ::listen(listener_, 8) != 0)
            throw std::runtime_error("fake broker");
        thread_ = std::thread([this] { serve(); });
    }
    FakeBroker(const FakeBroker &) = delete;
    FakeBroker &operator=(const FakeBroker &) = delete;
    ~FakeBroker() {
        (void)::shutdown(listener_, SHUT_RDWR);
        (void)::shutdown(client_, SHUT_RDWR);
        thread_.join();
        (void)::close(listener_);
    }
    [[nodiscard]] std::string socket() const { return folder_.path() + "/s"; }
    mutable std::atomic<bool> other_numbers{false}; // as if to other requests
    // How many hashes the request names that is being answered.
    [[nodiscard]] std::uint32_t named() const { return named_; }

  private:
    void serve() {
        while ((client_ = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC)) >= 0) {
            std::vector<std::byte> packet(store::kMaxPacket);
            while (::recv(client_, packet.data(), packet.size(), 0) > 0 && answer(packet))
                ;
            (void)::close(client_);
        }
    }
    bool answer(const std::vector<std::byte> &packet) {
        store::Header header{};
        std::memcpy(&header, packet.data(), sizeof(header));
        store::LookupRequest lookup{};
        std::memcpy(&lookup, packet.data(), sizeof(lookup));
        named_ = lookup.count; // of a publication, too
        std::vector<std::byte> reply;
        int fd = -1;
        bool die = false;
        if (header.op == static_cast<std::uint16_t>(store::Op::kHello))
            reply = bytes(store::HelloReply{
                .reply = {}, .seed = 0, .version = store::kVersion, .reserved = {}});
        else
            answer_(static_cast<store::Op>(header.op), reply, fd, die);
        if (die)
            return false;
        header.length = static_cast<std::uint32_t>(reply.size());
        header.number += other_numbers ? 1U : 0U;
        std::memcpy(reply.data(), &header, std::min(reply.size(), sizeof(header)));
        const iovec part{.iov_base = reply.data(), .iov_len = reply.size()};
        const bool sent = packet::send(client_, {&part, 1}, {&fd, fd >= 0 ? 1U : 0U}) == 0;
        if (fd >= 0)
            (void)::close(fd);
        return sent;
    }

    TempDir folder_;
    Answer answer_;
    int listener_ = -1;
    int client_ = -1;
    std::atomic<std::uint32_t> named_{0};
    std::thread thread_;
};

inline std::vector<std::byte> places(std::uint32_t count, std::uint32_t segment,
                                     std::uint32_t attached = 0, std::uint32_t first = 0) {
    store::LookupReply head{};
    head.count = count;
    head.pages = attached;
    std::vector<std::byte> reply(sizeof(head) + count * sizeof(store::Place));
    std::memcpy(reply.data(), &head, sizeof(head));
    for (std::uint32_t i = 0; i < count; ++i) {
        const store::Place place{.segment = segment, .page = first + i};
        std::memcpy(reply.data() + sizeof(head) + i * sizeof(place), &place, sizeof(place));
    }
    return reply;
}

} // namespace upm::test

#endif // UPM_TESTS_LIBUPM_STORE_FAKE_BROKER_HPP
