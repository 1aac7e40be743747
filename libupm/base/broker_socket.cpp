// SPDX-License-Identifier: MIT
#include "libupm/base/broker_socket.hpp"

#include "libupm/base/env.hpp"
#include "libupm/base/packet.hpp"
#include "libupm/base/user_map.hpp"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <sys/stat.h>
#include <unistd.h>

namespace upm {

namespace {

constexpr const char *kSystemLock = "/run/upm/upmd.sock.lock";

int copy_path(SocketPath &path, std::string_view text) noexcept {
    path = {};
    if (text.size() >= sizeof(path.text))
        return -ENAMETOOLONG;
    (void)text.copy(path.text, text.size());
    return 0;
}

// Another user could have made the folder.
bool has_session(uid_t uid) noexcept {
    char folder[64];
    struct stat status {};
    (void)std::snprintf(folder, sizeof(folder), "/run/user/%u", uid);
    return ::lstat(folder, &status) == 0 && S_ISDIR(status.st_mode) && status.st_uid == uid;
}

// Returns true if the socket's folder came from outside of this user namespace: it and
// all folders above it belong to users that the namespace does not know, or to its root,
// and nobody else may write there. A platform mounts its own folder like that into
// containers. Nobody has such a path in /tmp.
bool is_from_outside(const SocketPath &path) noexcept {
    char folder[sizeof(path.text)];
    std::memcpy(folder, path.text, sizeof(folder));
    bool outside = false; // the last one is
    for (bool last = true;; last = false) {
        char *const slash = std::strrchr(folder, '/');
        if (slash == nullptr)
            return outside;
        slash[slash == folder ? 1 : 0] = '\0';
        struct stat status {};
        if (::lstat(folder, &status) != 0 || !S_ISDIR(status.st_mode) ||
            (status.st_mode & 022U) != 0)
            return false;
        const bool unknown = user_map::is_ambiguous(status.st_uid);
        if ((!unknown && status.st_uid != 0) || (unknown && ::access(folder, W_OK) == 0))
            return false;
        outside = last ? unknown : outside;
        if (slash == folder)
            return outside;
    }
}

} // namespace

int own_socket(SocketPath &path) noexcept {
    const std::string_view wanted = env::get(env::socket);
    if (!wanted.empty())
        return copy_path(path, wanted);
    const uid_t uid = ::geteuid();
    if (uid == 0)
        return copy_path(path, kSystemSocket);
    path = {};
    (void)std::snprintf(path.text, sizeof(path.text),
                        has_session(uid) ? "/run/user/%u/upm/upmd.sock" : "/tmp/upm-%u/upmd.sock",
                        uid);
    return 0;
}

int find_socket(SocketPath &path) noexcept {
    if (env::raw(env::socket).empty() && ::access(kSystemSocket, W_OK) == 0)
        return copy_path(path, kSystemSocket);
    return own_socket(path);
}

// systemd keeps a link there for each unit with a process. A broker that made its socket itself
// has a lock beside it.
bool starts_on_demand(const SocketPath &path) noexcept {
    struct stat status {};
    return std::string_view(path.text) == kSystemSocket &&
           ::lstat("/run/systemd/system", &status) == 0 && ::lstat(kSystemSocket, &status) == 0 &&
           ::lstat(kSystemLock, &status) != 0 &&
           ::lstat("/run/systemd/units/invocation:upmd.service", &status) != 0;
}

int check_broker(int socket, const SocketPath &path) noexcept {
    ucred peer{};
    const int ret = packet::peer_of(socket, peer);
    if (ret != 0)
        return ret;
    if (user_map::is_ambiguous(peer.uid))
        return is_from_outside(path) ? 0 : -EACCES;
    return peer.uid == ::geteuid() || peer.uid == 0 ? 0 : -EACCES;
}

} // namespace upm
