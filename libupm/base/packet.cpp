// SPDX-License-Identifier: MIT
#include "libupm/base/packet.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <unistd.h>

namespace upm::packet {

namespace {

// Room for the descriptors of a packet, aligned as the kernel wants it.
struct Control {
    alignas(cmsghdr) std::byte bytes[CMSG_SPACE(kMaxFds * sizeof(int))];
};

msghdr message_of(std::span<const iovec> parts) noexcept {
    msghdr message{};
    message.msg_iov = const_cast<iovec *>(parts.data());
    message.msg_iovlen = parts.size();
    return message;
}

// The first descriptors into `fds`, and all others closed.
void take_fds(msghdr &message, std::span<int> fds, Received &received) noexcept {
    for (cmsghdr *part = CMSG_FIRSTHDR(&message); part != nullptr;
         part = CMSG_NXTHDR(&message, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
            continue;
        const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (std::size_t i = 0; i < count; ++i) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(fd), sizeof(fd));
            if (received.fds < fds.size()) {
                fds[received.fds++] = fd;
            } else {
                (void)::close(fd);
                received.fds_cut = true;
            }
        }
    }
}

} // namespace

int fill_address(std::string_view path, sockaddr_un &address) noexcept {
    if (path.size() >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    address = {};
    address.sun_family = AF_UNIX;
    (void)path.copy(address.sun_path, path.size());
    return 0;
}

int peer_of(int socket, ucred &peer) noexcept {
    socklen_t size = sizeof(peer);
    return ::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 ? 0 : -errno;
}

int send(int socket, std::span<const iovec> parts, std::span<const int> fds, int flags) noexcept {
    if (fds.size() > kMaxFds)
        return -EINVAL;
    Control control{};
    msghdr message = message_of(parts);
    if (!fds.empty()) {
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(fds.size_bytes());
        cmsghdr *const part = CMSG_FIRSTHDR(&message);
        part->cmsg_level = SOL_SOCKET;
        part->cmsg_type = SCM_RIGHTS;
        part->cmsg_len = CMSG_LEN(fds.size_bytes());
        std::memcpy(CMSG_DATA(part), fds.data(), fds.size_bytes());
    }
    for (;;) {
        if (::sendmsg(socket, &message, flags | MSG_NOSIGNAL) >= 0)
            return 0;
        if (errno != EINTR)
            return errno == EPIPE ? -ECONNRESET : -errno;
    }
}

int receive(int socket, std::span<const iovec> parts, std::span<int> fds, Received &received,
            int flags) noexcept {
    received = {};
    Control control;
    msghdr message = message_of(parts);
    message.msg_control = control.bytes;
    // Not CMSG_SPACE: into what pads it the kernel would put one more.
    message.msg_controllen = CMSG_LEN(std::min(fds.size(), kMaxFds) * sizeof(int));
    ssize_t got = -1;
    do
        got = ::recvmsg(socket, &message, flags | MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    if (got <= 0)
        return got == 0 ? -ECONNRESET : -errno;
    take_fds(message, fds, received);
    received.bytes = static_cast<std::size_t>(got);
    received.cut = (message.msg_flags & MSG_TRUNC) != 0;
    received.fds_cut = received.fds_cut || (message.msg_flags & MSG_CTRUNC) != 0;
    return 0;
}

void close_all(std::span<const int> fds) noexcept {
    for (const int fd : fds)
        (void)::close(fd);
}

} // namespace upm::packet
