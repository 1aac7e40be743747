// SPDX-License-Identifier: MIT
//
// Unix sockets of type SOCK_SEQPACKET: packets with descriptors, and who sent them.
// Libraries and brokers share it; it takes no memory and throws nothing.
#ifndef UPM_BASE_PACKET_HPP
#define UPM_BASE_PACKET_HPP

#include <cstddef>
#include <span>
#include <string_view>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

namespace upm::packet {

inline constexpr std::size_t kMaxFds = 64; // in one packet

// 0, or -ENAMETOOLONG.
int fill_address(std::string_view path, sockaddr_un &address) noexcept;

// Who was at the other end when the connection was made. 0 or -errno.
int peer_of(int socket, ucred &peer) noexcept;

// Sends one packet. The descriptors stay the sender's. Flags as for sendmsg(2).
// 0 or -errno: ECONNRESET (the peer is gone), EAGAIN (a timeout, or it would
// block), EINVAL (more than kMaxFds).
int send(int socket, std::span<const iovec> parts, std::span<const int> fds = {},
         int flags = 0) noexcept;

struct Received {
    std::size_t bytes = 0;
    std::size_t fds = 0;  // descriptors that came, close-on-exec and the receiver's
    bool cut = false;     // the packet was longer than there was room
    bool fds_cut = false; // so were they, or this process may hold no more of them
};

// Receives one packet. Flags as for recvmsg(2). 0 or -errno: ECONNRESET (the peer
// is gone), EAGAIN. On an error there is no descriptor. Pre: at most kMaxFds.
int receive(int socket, std::span<const iovec> parts, std::span<int> fds, Received &received,
            int flags = 0) noexcept;

void close_all(std::span<const int> fds) noexcept;

} // namespace upm::packet

#endif // UPM_BASE_PACKET_HPP
