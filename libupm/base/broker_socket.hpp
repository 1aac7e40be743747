// SPDX-License-Identifier: MIT
//
// Where upmd, the broker of the backend store, has its socket. The library looks for
// it there, and the broker listens there, so both ask here. And which brokers may be
// trusted, for upm-cudad as well.
#ifndef UPM_BASE_BROKER_SOCKET_HPP
#define UPM_BASE_BROKER_SOCKET_HPP

namespace upm {

// The broker of the system, by upmd.socket.
inline constexpr const char *kSystemSocket = "/run/upm/upmd.sock";

struct SocketPath {
    char text[108] = {}; // sizeof(sockaddr_un::sun_path)
};

// The place where a broker of this user listens: UPM_SOCKET; else that of the system
// for root; else the user's own, in /run/user/UID if the user has a session and in
// /tmp/upm-UID otherwise. 0, or -ENAMETOOLONG for a path that fits no socket.
int own_socket(SocketPath &path) noexcept;

// The place where this user finds a broker: the same, but that of the system if this
// user may use it.
int find_socket(SocketPath &path) noexcept;

// Returns true if systemd listens there in the place of a broker, and starts it for whoever
// connects: somebody who only looks must not.
bool starts_on_demand(const SocketPath &path) noexcept;

// Allows a broker of this user or of root at the other end of a connection: 0, or
// -EACCES. Anyone else could have put the socket there to learn what this process holds. A
// user that this namespace does not know has the number of all such users, even if that is
// this process's own: then the place decides.
int check_broker(int socket, const SocketPath &path) noexcept;

} // namespace upm

#endif // UPM_BASE_BROKER_SOCKET_HPP
