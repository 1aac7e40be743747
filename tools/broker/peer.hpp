// SPDX-License-Identifier: MIT
//
// What the kernel says of the process at the other end of a socket: which namespaces it
// is in, and a descriptor of its folder in /proc. Both are of the very process that
// connected, though its number may have been given to another one since.
#ifndef UPM_TOOLS_BROKER_PEER_HPP
#define UPM_TOOLS_BROKER_PEER_HPP

#include "tools/common/descriptor.hpp"

#include <cstdint>
#include <sys/socket.h>
#include <sys/types.h>

namespace upm::broker {

using tool::Descriptor;

struct Namespaces {
    std::uint64_t user = 0; // inodes in nsfs, which stay while a descriptor is open
    std::uint64_t pid = 0;
    friend bool operator==(const Namespaces &, const Namespaces &) = default;
};

struct PeerProcess {
    bool known = false; // nothing below means anything otherwise
    pid_t pid = 0;
    std::uint64_t started = 0; // ticks since boot; with pid the name of a process
    Namespaces namespaces;
    Descriptor user_ns;
    Descriptor pid_ns;
    Descriptor folder; // /proc/PID
};

// Looks at the process that connected. It is not known if it has ended, if it acts for
// several users (setuid), if this process may not look at it (another user's, not dumpable,
// in no namespace below this one's), or if /proc does not show it. Does not wait for
// anybody.
PeerProcess look_at_peer(int socket, const ucred &peer) noexcept;

// Of this process; zeros if /proc does not show them.
Namespaces own_namespaces() noexcept;

} // namespace upm::broker

#endif // UPM_TOOLS_BROKER_PEER_HPP
