// SPDX-License-Identifier: MIT
//
// The broker's sockets: one epoll loop around tools/upmd/broker.hpp.
#ifndef UPM_UPMD_SERVER_HPP
#define UPM_UPMD_SERVER_HPP

#include "tools/upmd/broker.hpp"

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

namespace upm::upmd {

struct Settings {
    Limits limits;
    std::uint32_t max_clients = 4096;      // of all users
    std::uint32_t max_user_clients = 2048; // of one
    std::uint64_t idle_exit_ms = 0;        // end after so long without work; 0: never
    std::string metrics_file;              // for a collector; empty: none
};

class Server {
  public:
    // Takes over a listening socket. Throws std::system_error.
    Server(Descriptor listener, const Settings &settings);

    // Until SIGTERM or SIGINT, or until it was idle for long enough. Pre: these
    // signals are blocked. Throws std::system_error.
    void run();

  private:
    struct Client {
        Descriptor socket;
        ClientId id;
        uid_t uid;
    };

    void accept_all();
    void admit(Descriptor socket);
    void read_client(int socket);
    void disconnect(int socket);
    void send(ClientId id, std::span<const std::byte> packet, int fd);
    void end_broken();
    void write_metrics() const;
    [[nodiscard]] int wait_ms(std::uint64_t now, std::uint64_t expiry);
    void watch(int fd) const;

    Settings settings_;
    Descriptor listener_;
    Descriptor epoll_;
    Descriptor signals_;
    Descriptor spare_; // given up to refuse a client when no descriptor is left
    Broker broker_;
    std::unordered_map<int, Client> clients_; // by socket
    std::unordered_map<ClientId, int> sockets_;
    std::unordered_map<uid_t, std::uint32_t> users_;
    std::vector<int> broken_; // to be disconnected once nothing refers to them
    std::uint64_t idle_since_ = 0;
    std::uint64_t metrics_at_ = 0;
};

} // namespace upm::upmd

#endif // UPM_UPMD_SERVER_HPP
