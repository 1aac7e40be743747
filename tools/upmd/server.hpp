// SPDX-License-Identifier: MIT
//
// upmd as a service of tools/broker: the clock, the metrics' file and the end when
// idle, around tools/upmd/broker.hpp.
#ifndef UPM_UPMD_SERVER_HPP
#define UPM_UPMD_SERVER_HPP

#include "tools/broker/packet_server.hpp"
#include "tools/upmd/broker.hpp"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace upm::upmd {

struct Settings {
    Limits limits;
    std::uint64_t idle_exit_ms = 0; // end after so long without work; 0: never
    std::string metrics_file;       // for a collector; empty: none
};

class Server final : public broker::Service {
  public:
    // Takes over a listening socket. Throws std::system_error.
    Server(Descriptor listener, const Settings &settings);

    // Until SIGTERM or SIGINT, or until it was idle for long enough. Pre: these
    // signals are blocked. Throws std::system_error.
    void run() { sockets_.run(); }

    ClientId connect(const ucred &peer) override;
    void disconnect(ClientId id) override;
    bool handle(ClientId id, std::span<const std::byte> packet, std::vector<Descriptor> fds,
                bool fds_lost) override;
    std::optional<int> tick() override;

  private:
    void write_metrics() const;
    [[nodiscard]] bool idle_for_long(std::uint64_t now);

    Settings settings_;
    Broker broker_;
    broker::PacketServer sockets_;
    std::uint64_t idle_since_ = 0;
    std::uint64_t metrics_at_ = 0;
};

} // namespace upm::upmd

#endif // UPM_UPMD_SERVER_HPP
