// SPDX-License-Identifier: MIT
#include "libupm/base/broker_socket.hpp"

#include "libupm/base/env.hpp"

#include <cerrno>
#include <cstdio>
#include <string_view>
#include <sys/stat.h>
#include <unistd.h>

namespace upm {

namespace {

constexpr std::string_view kSystemSocket = "/run/upm/upmd.sock";

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
    if (env::raw(env::socket).empty() && ::access(kSystemSocket.data(), W_OK) == 0)
        return copy_path(path, kSystemSocket);
    return own_socket(path);
}

} // namespace upm
