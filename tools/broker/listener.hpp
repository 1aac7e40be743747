// SPDX-License-Identifier: MIT
//
// The socket that a broker listens on: from systemd, or made here.
#ifndef UPM_TOOLS_BROKER_LISTENER_HPP
#define UPM_TOOLS_BROKER_LISTENER_HPP

#include "tools/common/descriptor.hpp"

#include <string>

namespace upm::broker {

using tool::Descriptor;

class Listener {
  public:
    // The socket that systemd passed on (LISTEN_FDS, LISTEN_PID); false: there is
    // none. Throws std::runtime_error if it is no listening SOCK_SEQPACKET socket.
    bool take_from_systemd();

    // Makes the socket, and the last folder of its path. A socket that a dead
    // broker left is replaced. False: a broker runs there. Throws
    // std::system_error, and std::runtime_error for a folder of another user.
    bool make(const std::string &path, unsigned mode);

    // Removes what make() has made.
    ~Listener();
    Listener() = default;
    Listener(const Listener &) = delete;
    Listener &operator=(const Listener &) = delete;

    [[nodiscard]] Descriptor take() { return std::move(socket_); }

  private:
    std::string path_; // empty: not ours to remove
    Descriptor lock_;
    Descriptor socket_;
};

} // namespace upm::broker

#endif // UPM_TOOLS_BROKER_LISTENER_HPP
