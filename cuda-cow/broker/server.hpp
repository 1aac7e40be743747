// SPDX-License-Identifier: MIT
//
// What upm-cudad makes of its members' packets; the loop around it is the one of
// tools/broker.
#ifndef UPM_CUDA_BROKER_SERVER_HPP
#define UPM_CUDA_BROKER_SERVER_HPP

#include "cuda-cow/broker/store.hpp"
#include "tools/broker/packet_server.hpp"

#include <map>
#include <optional>
#include <string>

namespace upm::cuda::broker {

class Server final : public upm::broker::Service {
  public:
    // Takes over a listening socket. Throws std::system_error.
    Server(upm::broker::Descriptor listener, const Limits &limits);
    // Until SIGTERM or SIGINT. Throws std::system_error.
    void run() { loop_.run(); }

    upm::broker::ClientId connect(int socket, const ucred &peer) override;
    void disconnect(upm::broker::ClientId id) override;
    bool handle(upm::broker::ClientId id, std::span<const std::byte> packet,
                upm::broker::Attachments attachments) override;
    std::optional<int> tick() override;

  private:
    struct Peer {
        uid_t uid = 0;
        std::string domain; // empty before kHello
        std::optional<Content> waiting;
    };

    void reply(Member member, Message &message, Type type, int error = 0);
    // False: the peer does not keep to the protocol.
    bool hello(Member member, Peer &peer, const Message &request);
    bool find(Member member, Peer &peer, const Message &request);
    bool publish(Member member, const Message &request, std::vector<upm::broker::Descriptor> fds,
                 bool fds_lost);
    bool give_back(Member member, const Message &request);
    void counters(Member member);
    void answer_waiting(Member member, Peer &peer);

    Store store_;
    std::map<Member, Peer> peers_;
    Member next_member_ = 1;
    upm::broker::PacketServer loop_;
};

} // namespace upm::cuda::broker

#endif // UPM_CUDA_BROKER_SERVER_HPP
