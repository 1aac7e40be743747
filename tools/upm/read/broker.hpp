// SPDX-License-Identifier: MIT
//
// The socket of the broker, and who is behind it. Looking starts nothing and waits for
// nobody.
#ifndef UPM_TOOLS_UPM_READ_BROKER_HPP
#define UPM_TOOLS_UPM_READ_BROKER_HPP

#include "tools/common/root.hpp"

#include <cstdint>
#include <string>
#include <sys/types.h>

namespace upm::tool::cli {

enum class BrokerState : std::uint8_t {
    kNone,     // no such file
    kNoSocket, // a file of another kind
    kWaits,    // systemd listens, and starts a broker for the first who connects
    kDead,     // nobody listens
    kClosed,   // this user may not connect
    kForeign,  // of another user: the library does not trust it
    kStopped,  // by a signal, or by a debugger
    kFull,     // nobody takes connections: its queue is full
    kListens,
};

struct BrokerLook {
    std::string path; // of the socket
    bool system = false;
    BrokerState state = BrokerState::kNone;
    uid_t owner = 0;     // of the file
    unsigned mode = 0;   // permission bits of the file
    unsigned folder = 0; // and of its folder
    pid_t pid = 0;       // of the broker; 0: not known, or of another pid namespace
    uid_t user = 0;      // of the broker
};

// What the library of this process would find. `filename` takes the place of the usual
// socket, if it is not empty.
BrokerLook look_at_broker(const Root &root, std::string path = "");

} // namespace upm::tool::cli

#endif // UPM_TOOLS_UPM_READ_BROKER_HPP
