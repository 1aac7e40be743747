// SPDX-License-Identifier: MIT
//
// The loop of a broker: one thread, epoll, a Unix socket of type SOCK_SEQPACKET,
// limits on how many clients there are, descriptors by SCM_RIGHTS (received by threads
// of their own, see receiver.hpp). Users take turns: however many clients one has, each
// round serves a few of them. What packets mean is the service's business.
#ifndef UPM_TOOLS_BROKER_PACKET_SERVER_HPP
#define UPM_TOOLS_BROKER_PACKET_SERVER_HPP

#include "tools/broker/receiver.hpp"
#include "tools/common/descriptor.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unordered_map>
#include <vector>

namespace upm::broker {

using tool::Descriptor;

using ClientId = std::uint64_t;

class Service {
  public:
    // A client sent its first packet, and how it is to be called; each number once. The socket
    // stays the loop's.
    virtual ClientId connect(int socket, const ucred &peer) = 0;
    // A connection of this user was refused. `why` is of a few texts, which stay.
    virtual void refused(uid_t /*uid*/, const char * /*why*/) {}
    // It is gone, or was sent away.
    virtual void disconnect(ClientId id) = 0;
    // A packet and what came with it. False: it is not of the protocol; the client has to
    // go.
    virtual bool handle(ClientId id, std::span<const std::byte> packet,
                        Attachments attachments) = 0;
    // Says if a user may bring descriptors just now. If not, the kernel drops what comes.
    [[nodiscard]] virtual bool accepts(uid_t /*uid*/) { return true; }
    // Does what is due. How many ms may pass until the next call, -1: any number;
    // nothing: it is time to end.
    virtual std::optional<int> tick() = 0;

  protected:
    ~Service() = default;
};

struct PacketLimits {
    std::uint32_t clients = 4096;      // of all users
    std::uint32_t user_clients = 2048; // of one
    std::size_t bytes = 0;             // of a packet; a longer one is a fault
    std::size_t fds = 1;               // with a packet; more are a fault
    Welcome welcome = is_memfd;        // which of them the service takes
};

class PacketServer {
  public:
    // Takes over a listening socket. Throws std::system_error.
    PacketServer(Descriptor listener, const PacketLimits &limits, Service &service);

    // Until SIGTERM or SIGINT, or until the service says so. Pre: these signals
    // are blocked. Throws std::system_error.
    void run();

    // For the service, at any time. A client that does not take its packets, or is
    // gone, is disconnected later. The descriptors stay the caller's.
    void send(ClientId id, std::span<const std::byte> packet, std::span<const int> fds = {});
    void end(ClientId id);

    // Calls `ready` whenever the descriptor, which stays the caller's, can be read.
    void also_watch(int fd, std::function<void()> ready);
    // Listens to this socket from now on, and to the one before no more.
    void listen_to(Descriptor listener);

  private:
    // The service knows it once it sends something: to look at whoever only connects would keep
    // the others waiting.
    struct Client {
        Descriptor socket;
        ucred peer;
        std::optional<ClientId> id;
    };

    void watch(int fd) const;
    void unwatch(int fd) const;
    void accept_some();
    void admit(Descriptor socket);
    bool enter(Client &client);
    void refuse(Descriptor socket);
    void read_client(int socket);
    void read_plainly(const Client &client, bool fds_lost);
    void take(Receiver::Received received);
    void serve_round(int ready);
    [[nodiscard]] int wait(int patience);
    void disconnect(int socket);
    bool end_broken();

    PacketLimits limits_;
    Service &service_;
    Descriptor listener_;
    Descriptor epoll_;
    Descriptor signals_;
    Descriptor spare_; // given up to refuse a client when no descriptor is left
    Receiver receiver_;
    std::vector<std::byte> buffer_;
    std::vector<epoll_event> events_;
    std::unordered_map<int, std::function<void()>> others_;
    std::unordered_map<int, Client> clients_; // by socket
    std::unordered_map<ClientId, int> sockets_;
    std::unordered_map<uid_t, std::uint32_t> users_;
    std::vector<int> broken_; // to be disconnected once nothing refers to them
};

// SIGTERM and SIGINT, for the loop, and no death by SIGPIPE. Before any thread.
void block_signals() noexcept;

// As many open files as the hard limit allows; how many that is.
std::uint64_t raise_file_limit() noexcept;

} // namespace upm::broker

#endif // UPM_TOOLS_BROKER_PACKET_SERVER_HPP
