// SPDX-License-Identifier: MIT
//
// upmd as a service of tools/broker: the clock, the processes behind the connections,
// the metrics' file and the end when idle, around tools/upmd/broker.hpp.
#ifndef UPM_UPMD_SERVER_HPP
#define UPM_UPMD_SERVER_HPP

#include "tools/broker/listener.hpp"
#include "tools/broker/packet_server.hpp"
#include "tools/upmd/broker.hpp"
#include "tools/upmd/log.hpp"
#include "tools/upmd/maker.hpp"
#include "tools/upmd/processes.hpp"
#include "tools/upmd/watcher.hpp"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>

namespace upm::upmd {

struct Settings {
    Limits limits;
    std::uint32_t clients = 4096;      // connections
    std::uint32_t user_clients = 4096; // of one user
    std::size_t tasks = 256;           // that hold a client's file; of one user, a quarter
    std::uint64_t idle_exit_ms = 0;    // end after so long without work; 0: never
    std::string metrics_file;          // for a collector; empty: none
    unsigned start_below_free = 0;     // percent of memory; 0: shares at once
    int log = -1;                      // a descriptor for messages; -1: none
};

class Server final : public broker::Service {
  public:
    // Takes over the listener's socket, and makes it anew if its name goes. Throws
    // std::system_error. The listener stays the caller's.
    Server(broker::Listener &listener, const Settings &settings);

    // Until SIGTERM or SIGINT, or until it was idle for long enough. Pre: these
    // signals are blocked. Throws std::system_error.
    void run() { sockets_.run(); }

    // One line about the seeds that end with this broker; empty if there are none.
    [[nodiscard]] std::string seeds_lost() const;

    ClientId connect(int socket, const ucred &peer) override;
    void refused(uid_t uid, const char *why) override { broker_.refuse_connection(uid, why); }
    void disconnect(ClientId id) override;
    bool handle(ClientId id, std::span<const std::byte> packet,
                broker::Attachments attachments) override;
    [[nodiscard]] bool accepts(uid_t uid) override { return maker_.takes(uid); }
    std::optional<int> tick() override;

  private:
    void look_at_memory(std::uint64_t now);
    void write_metrics();
    [[nodiscard]] bool idle_for_long(std::uint64_t now);
    void begin_looks(std::uint64_t now);
    void take_looks();
    void take_made();
    void take_made_late();
    [[nodiscard]] uid_t uid_of(ClientId id);
    void listen_again();

    Settings settings_;
    Log log_;
    broker::Listener &listener_;
    Maker maker_;
    Maker late_maker_; // in the background
    Broker broker_;
    Processes processes_;
    Watcher watcher_;
    std::unordered_map<ClientId, std::uint64_t> process_of_;
    broker::PacketServer sockets_;
    std::uint64_t idle_since_ = 0;
    std::uint64_t metrics_at_ = 0;
    std::string metrics_lost_;    // why they could not be written, as it was told
    std::uint64_t memory_at_ = 0; // when to look at it again
};

} // namespace upm::upmd

#endif // UPM_UPMD_SERVER_HPP
