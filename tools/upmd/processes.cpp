// SPDX-License-Identifier: MIT
#include "tools/upmd/processes.hpp"

#include "libupm/base/user_map.hpp"

#include <fmt/format.h>
#include <unistd.h>

namespace upm::upmd {

Peer Processes::enter(int socket, const ucred &peer) {
    broker::PeerProcess process = broker::look_at_peer(socket, peer);
    // The number by which all users go that this namespace does not know is no user: two
    // processes that have it may be strangers to each other.
    if (process.known && !user_map::is_ambiguous(peer.uid))
        return known(std::move(process), peer.uid);
    Peer alone;
    alone.uid = peer.uid;
    alone.process = ++last_;
    alone.domain = fmt::format("alone {}", alone.process);
    alone.label = fmt::format("alone:{}", alone.process);
    entries_.emplace(
        alone.process,
        Entry{.name = {}, .found = {.uid = peer.uid, .folder = nullptr}, .connections = 1});
    return alone;
}

Peer Processes::known(broker::PeerProcess process, uid_t uid) {
    const Name name(process.pid, process.started);
    const auto [number, fresh] = numbers_.emplace(name, last_ + 1);
    if (fresh)
        entries_.emplace(++last_, Entry{.name = name,
                                        .found = {.uid = uid,
                                                  .folder = std::make_shared<const Descriptor>(
                                                      std::move(process.folder))},
                                        .connections = 0});
    ++entries_.at(number->second).connections;
    const broker::Namespaces &where = process.namespaces;
    const bool ours = where == own_;
    Peer peer;
    peer.uid = uid;
    peer.process = number->second;
    peer.domain = fmt::format("user {} in {} {}", uid, where.user, where.pid);
    peer.label =
        ours ? fmt::format("user:{}", uid) : fmt::format("user:{}/pidns:{}", uid, where.pid);
    peer.ours = ours;
    peer.sees_all = ours && (uid == 0 || uid == ::geteuid());
    peer.anchors.push_back(std::move(process.user_ns));
    peer.anchors.push_back(std::move(process.pid_ns));
    return peer;
}

void Processes::leave(std::uint64_t process) {
    const auto found = entries_.find(process);
    if (found == entries_.end() || --found->second.connections != 0)
        return;
    numbers_.erase(found->second.name);
    entries_.erase(found);
}

Processes::Found Processes::find(std::uint64_t process) const {
    const auto found = entries_.find(process);
    return found != entries_.end() ? found->second.found : Found{};
}

} // namespace upm::upmd
