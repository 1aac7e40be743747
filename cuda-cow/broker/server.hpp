// SPDX-License-Identifier: MIT
//
// The broker's loop: one thread, poll(2), every member's requests one at a time.
#ifndef UPM_CUDA_BROKER_SERVER_HPP
#define UPM_CUDA_BROKER_SERVER_HPP

#include "cuda-cow/broker/store.hpp"

#include <map>
#include <optional>
#include <string>

namespace upm::cuda::broker {

class Server {
  public:
    explicit Server(Limits limits) : store_(limits) {}
    Server(const Server &) = delete;
    Server &operator=(const Server &) = delete;
    ~Server();

    // Takes the path even if a broker that died left its socket there. Errors:
    // EADDRINUSE (a broker answers there), ENAMETOOLONG, and those of bind(2).
    int listen(const std::string &path, unsigned mode);
    // Serves until `stop_fd` can be read. 0 or an errno.
    int run(int stop_fd);

  private:
    struct Peer {
        int socket = -1;
        std::string domain; // empty before kHello
        std::optional<Content> waiting;
    };

    void accept_peer();
    // False: the peer is gone, or does not keep to the protocol.
    bool serve(Member member, Peer &peer);
    bool hello(Member member, Peer &peer, const Message &request);
    bool find(Member member, Peer &peer, const Message &request);
    bool publish(Member member, Peer &peer, Message &request);
    bool give_back(Member member, Peer &peer, const Message &request);
    bool counters(Peer &peer);
    bool answer_waiting(Member member, Peer &peer);
    void drop(Member member);
    // Answers those whose content is now decided.
    void wake();

    Store store_;
    int listener_ = -1;
    std::string path_;
    std::map<Member, Peer> peers_;
    Member next_member_ = 1;
};

} // namespace upm::cuda::broker

#endif // UPM_CUDA_BROKER_SERVER_HPP
