// SPDX-License-Identifier: MIT
//
// The socket that a broker listens on: from systemd, or made here.
#ifndef UPM_TOOLS_BROKER_LISTENER_HPP
#define UPM_TOOLS_BROKER_LISTENER_HPP

#include "tools/common/descriptor.hpp"

#include <cstdint>
#include <string>
#include <sys/types.h>

namespace upm::broker {

using tool::Descriptor;

class Listener {
  public:
    // The socket that systemd passed on (LISTEN_FDS, LISTEN_PID); false: there is
    // none. Throws std::runtime_error if it is no listening SOCK_SEQPACKET socket.
    bool take_from_systemd();

    // Makes the socket, and the last folder of its path. A socket that a dead
    // broker left is replaced. False: a broker runs there, or somebody else listens, such
    // as systemd. Throws std::system_error, and std::runtime_error for a folder of another
    // user.
    bool make(const std::string &path, unsigned mode);

    // The socket's name, until it is taken.
    [[nodiscard]] std::string name() const;

    // Can be read when something in the socket's folder changed; -1: nothing to watch.
    [[nodiscard]] int watch() const { return watch_.get(); }
    // Reads the above. If the name of the socket that make() made is gone, makes another
    // socket, which is then to be taken: true. Throws as make() does.
    bool make_again();

    // Removes what make() has made, if it still is what is there.
    ~Listener();
    Listener() = default;
    Listener(const Listener &) = delete;
    Listener &operator=(const Listener &) = delete;

    [[nodiscard]] Descriptor take() { return std::move(socket_); }

  private:
    void bind_and_watch();
    [[nodiscard]] bool is_there() const;

    std::string path_; // empty: not ours to remove
    unsigned mode_ = 0;
    dev_t device_ = 0; // of the socket's name, with the inode
    ino_t inode_ = 0;
    Descriptor lock_;
    Descriptor watch_;
    Descriptor socket_;
};

} // namespace upm::broker

#endif // UPM_TOOLS_BROKER_LISTENER_HPP
