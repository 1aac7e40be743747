// SPDX-License-Identifier: MIT
#include "tools/broker/peer.hpp"

#include <array>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <fcntl.h>
#include <poll.h>
#include <string_view>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 // NOLINT(readability-identifier-naming): since Linux 6.5
#endif

namespace upm::broker {

namespace {

// A descriptor of the process itself. Before Linux 6.5 of whoever has its number now:
// the same one unless it ended since it connected.
Descriptor pidfd_of(int socket, pid_t pid) noexcept {
    int fd = -1;
    socklen_t size = sizeof(fd);
    if (::getsockopt(socket, SOL_SOCKET, SO_PEERPIDFD, &fd, &size) == 0)
        return Descriptor(fd);
    return Descriptor(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
}

// It can be read once the process has ended.
bool has_ended(int pidfd) noexcept {
    pollfd event{.fd = pidfd, .events = POLLIN, .revents = 0};
    return ::poll(&event, 1, 0) != 0;
}

Descriptor open_namespace(int folder, const char *name, std::uint64_t &number) noexcept {
    Descriptor fd(::openat(folder, name, O_RDONLY | O_CLOEXEC));
    struct stat status {};
    if (!fd || ::fstat(fd.get(), &status) != 0)
        return {};
    number = status.st_ino;
    return fd;
}

// The 22nd field of /proc/PID/stat; the second one may hold blanks and parentheses.
bool read_start(int folder, std::uint64_t &started) noexcept {
    constexpr int kField = 22;
    std::array<char, 1024> text{};
    const Descriptor fd(::openat(folder, "stat", O_RDONLY | O_CLOEXEC));
    const ssize_t got = fd ? ::read(fd.get(), text.data(), text.size()) : -1;
    if (got <= 0)
        return false;
    std::string_view rest(text.data(), static_cast<std::size_t>(got));
    const std::size_t name_end = rest.rfind(')');
    if (name_end == std::string_view::npos)
        return false;
    rest.remove_prefix(name_end + 1);
    for (int field = 2; field < kField; ++field) {
        const std::size_t blank = rest.find(' ');
        if (blank == std::string_view::npos)
            return false;
        rest.remove_prefix(blank + 1);
    }
    return std::from_chars(rest.data(), rest.data() + rest.size(), started).ec == std::errc();
}

// Returns true if the real, the effective and the saved user are one: a process that acts
// for two users belongs to neither.
bool has_one_user(int folder, uid_t uid) noexcept {
    std::array<char, 2048> text{};
    const Descriptor fd(::openat(folder, "status", O_RDONLY | O_CLOEXEC));
    if (!fd || ::read(fd.get(), text.data(), text.size() - 1) <= 0)
        return false;
    const char *const line = std::strstr(text.data(), "\nUid:");
    unsigned long real = 0;
    unsigned long effective = 0;
    unsigned long saved = 0;
    if (line == nullptr)
        return false;
    // NOLINTNEXTLINE(cert-err34-c): a line of another form is told by the count
    const int found = std::sscanf(line, "\nUid: %lu %lu %lu", &real, &effective, &saved);
    return found == 3 && real == uid && effective == uid && saved == uid;
}

bool read_namespaces(int folder, PeerProcess &process) noexcept {
    process.user_ns = open_namespace(folder, "ns/user", process.namespaces.user);
    process.pid_ns = open_namespace(folder, "ns/pid", process.namespaces.pid);
    return process.user_ns && process.pid_ns;
}

} // namespace

PeerProcess look_at_peer(int socket, const ucred &peer) noexcept {
    PeerProcess process;
    process.pid = peer.pid;
    if (peer.pid <= 0)
        return process; // in no namespace below this one's
    const Descriptor pidfd = pidfd_of(socket, peer.pid);
    std::array<char, 32> path{};
    (void)std::snprintf(path.data(), path.size(), "/proc/%d", peer.pid);
    process.folder = Descriptor(::open(path.data(), O_PATH | O_DIRECTORY | O_CLOEXEC));
    // If the process still runs, its number was its own when the folder was opened, and
    // the folder is its own for ever.
    if (!pidfd || !process.folder || has_ended(pidfd.get()))
        return process;
    process.known = has_one_user(process.folder.get(), peer.uid) &&
                    read_namespaces(process.folder.get(), process) &&
                    read_start(process.folder.get(), process.started);
    return process;
}

Namespaces own_namespaces() noexcept {
    PeerProcess process;
    const Descriptor folder(::open("/proc/self", O_PATH | O_DIRECTORY | O_CLOEXEC));
    return folder && read_namespaces(folder.get(), process) ? process.namespaces : Namespaces{};
}

} // namespace upm::broker
