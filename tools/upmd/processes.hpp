// SPDX-License-Identifier: MIT
//
// The processes behind the connections: a number for each, and from it the domain that
// it is in unless it names one. A process that cannot be looked at shares with nobody.
#ifndef UPM_UPMD_PROCESSES_HPP
#define UPM_UPMD_PROCESSES_HPP

#include "tools/broker/peer.hpp"
#include "tools/upmd/broker.hpp"

#include <cstdint>
#include <map>
#include <memory>
#include <sys/socket.h>
#include <utility>

namespace upm::upmd {

class Processes {
  public:
    Processes() : own_(broker::own_namespaces()) {}

    // Who is at the other end. Each call is one connection more of that process.
    Peer enter(int socket, const ucred &peer);
    // One connection of it less.
    void leave(std::uint64_t process);

    // Its folder in /proc; nothing if it is not known.
    struct Found {
        uid_t uid = 0;
        std::shared_ptr<const Descriptor> folder;
    };
    [[nodiscard]] Found find(std::uint64_t process) const;

  private:
    using Name = std::pair<pid_t, std::uint64_t>; // with the time when it began
    struct Entry {
        Name name;
        Found found;
        std::uint64_t connections = 0;
    };

    Peer known(broker::PeerProcess process, uid_t uid);

    broker::Namespaces own_;
    std::map<std::uint64_t, Entry> entries_;
    std::map<Name, std::uint64_t> numbers_;
    std::uint64_t last_ = 0;
};

} // namespace upm::upmd

#endif // UPM_UPMD_PROCESSES_HPP
