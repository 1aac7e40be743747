// SPDX-License-Identifier: MIT
#include "cuda-cow/broker/protocol.hpp"

#include "libupm/base/env.hpp"
#include "libupm/base/packet.hpp"

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace upm::cuda::broker {

namespace {

bool is_message(const Header &header, std::size_t bytes) noexcept {
    return bytes >= sizeof header && header.magic == kMagic && header.count <= kMaxItems;
}

int gone(int error) noexcept {
    return error == ECONNRESET ? EPIPE : error;
}

} // namespace

std::size_t pack(const Message &message, std::span<std::byte> packet) noexcept {
    std::memcpy(packet.data(), &message.header, sizeof message.header);
    std::memcpy(packet.data() + sizeof message.header, message.body, message.body_bytes);
    return sizeof message.header + message.body_bytes;
}

bool unpack(std::span<const std::byte> packet, Message &message) noexcept {
    if (packet.size() < sizeof message.header ||
        packet.size() > sizeof message.header + sizeof message.body)
        return false;
    std::memcpy(&message.header, packet.data(), sizeof message.header);
    message.body_bytes = packet.size() - sizeof message.header;
    std::memcpy(message.body, packet.data() + sizeof message.header, message.body_bytes);
    return is_message(message.header, packet.size());
}

int send_message(int socket, const Message &message, int flags) noexcept {
    const std::array<iovec, 2> parts{
        iovec{.iov_base = const_cast<Header *>(&message.header), .iov_len = sizeof message.header},
        iovec{.iov_base = const_cast<unsigned char *>(message.body),
              .iov_len = message.body_bytes}};
    return gone(
        -packet::send(socket, parts, std::span(message.fds).first(message.fd_count), flags));
}

int receive_message(int socket, Message &message) noexcept {
    message = Message{};
    const std::array<iovec, 2> parts{
        iovec{.iov_base = &message.header, .iov_len = sizeof message.header},
        iovec{.iov_base = message.body, .iov_len = sizeof message.body}};
    packet::Received received;
    if (const int error = -packet::receive(socket, parts, message.fds, received); error != 0)
        return gone(error);
    message.fd_count = received.fds;
    message.fds_cut = received.fds_cut;
    if (received.cut || !is_message(message.header, received.bytes)) {
        close_fds(message);
        return EPROTO;
    }
    message.body_bytes = received.bytes - sizeof message.header;
    return 0;
}

void close_fds(Message &message) noexcept {
    packet::close_all(std::span(message.fds).first(message.fd_count));
    message.fd_count = 0;
}

std::string socket_path() {
    if (const char *const path = env::get(env::cuda_socket); *path != '\0')
        return path;
    const char *const runtime = ::secure_getenv("XDG_RUNTIME_DIR");
    const bool usable = runtime != nullptr && *runtime == '/';
    return std::string(usable ? runtime : "/run") + "/upm-cudad.sock";
}

} // namespace upm::cuda::broker
