// SPDX-License-Identifier: MIT
#include "cuda-cow/broker/protocol.hpp"

#include <cerrno>
#include <cstring>
#include <sys/socket.h>
#include <unistd.h>

namespace upm::cuda::broker {

namespace {

constexpr std::size_t kControlBytes = CMSG_SPACE(sizeof(int) * kMaxItems);

void take_fds(msghdr &packet, Message &message) noexcept {
    for (cmsghdr *part = CMSG_FIRSTHDR(&packet); part != nullptr;
         part = CMSG_NXTHDR(&packet, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS)
            continue;
        const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        std::memcpy(message.fds, CMSG_DATA(part), count * sizeof(int));
        message.fd_count = count;
    }
    message.fds_cut = (packet.msg_flags & MSG_CTRUNC) != 0;
}

} // namespace

int send_message(int socket, const Message &message) noexcept {
    iovec parts[2] = {
        {.iov_base = const_cast<Header *>(&message.header), .iov_len = sizeof message.header},
        {.iov_base = const_cast<unsigned char *>(message.body), .iov_len = message.body_bytes}};
    alignas(cmsghdr) char control[kControlBytes] = {};
    msghdr packet = {};
    packet.msg_iov = parts;
    packet.msg_iovlen = 2;
    if (message.fd_count != 0) {
        packet.msg_control = control;
        packet.msg_controllen = CMSG_SPACE(sizeof(int) * message.fd_count);
        cmsghdr *const part = CMSG_FIRSTHDR(&packet);
        part->cmsg_level = SOL_SOCKET;
        part->cmsg_type = SCM_RIGHTS;
        part->cmsg_len = CMSG_LEN(sizeof(int) * message.fd_count);
        std::memcpy(CMSG_DATA(part), message.fds, sizeof(int) * message.fd_count);
    }
    for (;;) {
        if (::sendmsg(socket, &packet, MSG_NOSIGNAL) >= 0)
            return 0;
        if (errno != EINTR)
            return errno == ECONNRESET ? EPIPE : errno;
    }
}

int receive_message(int socket, Message &message) noexcept {
    message = Message{};
    iovec parts[2] = {{.iov_base = &message.header, .iov_len = sizeof message.header},
                      {.iov_base = message.body, .iov_len = sizeof message.body}};
    alignas(cmsghdr) char control[kControlBytes] = {};
    msghdr packet = {};
    packet.msg_iov = parts;
    packet.msg_iovlen = 2;
    packet.msg_control = control;
    packet.msg_controllen = sizeof control;
    ssize_t got = 0;
    do
        got = ::recvmsg(socket, &packet, MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    if (got < 0)
        return errno == ECONNRESET ? EPIPE : errno;
    if (got == 0)
        return EPIPE;
    take_fds(packet, message);
    if (static_cast<std::size_t>(got) < sizeof message.header ||
        (packet.msg_flags & MSG_TRUNC) != 0 || message.header.magic != kMagic ||
        message.header.count > kMaxItems) {
        close_fds(message);
        return EPROTO;
    }
    message.body_bytes = static_cast<std::size_t>(got) - sizeof message.header;
    return 0;
}

void close_fds(Message &message) noexcept {
    for (std::size_t i = 0; i < message.fd_count; ++i)
        ::close(message.fds[i]);
    message.fd_count = 0;
}

} // namespace upm::cuda::broker
