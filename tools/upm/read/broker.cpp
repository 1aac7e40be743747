// SPDX-License-Identifier: MIT
#include "tools/upm/read/broker.hpp"

#include "libupm/base/broker_socket.hpp"
#include "libupm/base/packet.hpp"
#include "tools/common/descriptor.hpp"
#include "tools/common/text.hpp"

#include <cerrno>
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

namespace upm::tool::cli {

namespace {

// The state of a process in /proc/PID/stat, behind its name; '?' if it is not to be seen.
char process_state(const Root &root, pid_t pid) {
    const std::string line = root.first_line(fmt::format("/proc/{}/stat", pid)).value_or("");
    const std::size_t name_end = line.rfind(") ");
    return name_end == std::string::npos || name_end + 2 >= line.size() ? '?' : line[name_end + 2];
}

// The broker behind a socket that systemd made.
pid_t service_pid(const Root &root) {
    for (const char *folder :
         {"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"})
        if (const auto pid = root.number<pid_t>(
                fmt::format("{}/system.slice/upmd.service/cgroup.procs", folder)))
            return *pid;
    return 0;
}

void connect(const Root &root, BrokerLook &look) {
    const std::string name = root.path(look.path);
    sockaddr_un address{};
    const Descriptor socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!socket || packet::fill_address(name, address) != 0)
        return;
    if (::connect(socket.get(), reinterpret_cast<const sockaddr *>(&address), sizeof(address)) !=
        0) {
        look.state = errno == EAGAIN                     ? BrokerState::kFull
                     : errno == EACCES || errno == EPERM ? BrokerState::kClosed
                     : errno == EPROTOTYPE               ? BrokerState::kForeign
                                                         : BrokerState::kDead;
        return;
    }
    SocketPath path;
    (void)name.copy(path.text, sizeof(path.text) - 1);
    ucred peer{};
    if (packet::peer_of(socket.get(), peer) == 0) {
        look.pid = peer.pid == 1 ? service_pid(root) : peer.pid;
        look.user = peer.uid;
    }
    look.state =
        check_broker(socket.get(), path) == 0 ? BrokerState::kListens : BrokerState::kForeign;
}

} // namespace

BrokerLook look_at_broker(const Root &root, std::string path) {
    BrokerLook look{.path = std::move(path)};
    if (look.path.empty()) {
        SocketPath found;
        (void)find_socket(found);
        look.path = found.text;
    }
    look.system = look.path == kSystemSocket;
    const std::string name = root.path(look.path);
    struct stat status {};
    if (::stat(name.substr(0, name.rfind('/')).c_str(), &status) == 0)
        look.folder = status.st_mode & 07777U;
    if (::lstat(name.c_str(), &status) != 0) {
        look.state = errno == EACCES ? BrokerState::kClosed : BrokerState::kNone;
        return look;
    }
    look.owner = status.st_uid;
    look.mode = status.st_mode & 07777U;
    if (!S_ISSOCK(status.st_mode)) {
        look.state = BrokerState::kNoSocket;
        return look;
    }
    SocketPath as_library;
    (void)look.path.copy(as_library.text, sizeof(as_library.text) - 1);
    if (root.real() && starts_on_demand(as_library)) {
        look.state = BrokerState::kWaits;
        return look;
    }
    connect(root, look);
    const bool there = look.state == BrokerState::kListens || look.state == BrokerState::kFull;
    const char state = there && look.pid > 0 ? process_state(root, look.pid) : '?';
    if (state == 'T' || state == 't')
        look.state = BrokerState::kStopped;
    return look;
}

} // namespace upm::tool::cli
