// SPDX-License-Identifier: MIT
#include "tools/upmd/usage.hpp"

#include <algorithm>

namespace upm::upmd {

void Usage::enter(ClientId id, const Owner &owner, const Domain &domain) {
    clients_.emplace(id, Client{.owner = owner, .domain = &domain, .uses = {}});
    processes_[owner.process].clients.push_back(id);
}

void Usage::leave(ClientId id, std::uint64_t now) {
    const auto found = clients_.find(id);
    if (found == clients_.end())
        return;
    Client &client = found->second;
    while (!client.uses.empty())
        release(client, client.uses.begin()->first, now);
    const auto process = processes_.find(client.owner.process);
    std::erase(process->second.clients, id);
    if (process->second.clients.empty())
        processes_.erase(process);
    clients_.erase(found);
}

void Usage::want_look(Process &process, std::uint64_t at) {
    process.look_at = process.look_at == 0 ? at : std::min(process.look_at, at);
    wanted(process.look_at);
}

void Usage::begin(Client &client, Segment &segment, std::uint64_t pages, std::uint64_t now) {
    const auto [use, fresh] = client.uses.emplace(segment.id, Use{.mapped = 0, .since = now});
    if (!fresh) {
        use->second.since = now;
        return;
    }
    ++segment.users;
    set(segment, use->second, pages);
    segment.shared = segment.shared || client.owner.process != segment.owner.process;
    if (segment.users == 1)
        find_payer(segment);
}

void Usage::use(ClientId id, Segment &segment, bool published, std::uint64_t now) {
    Client &client = clients_.at(id);
    begin(client, segment, 0, now);
    want_look(processes_.at(client.owner.process),
              now + (published ? limits_.look_soon_ms : limits_.look_ms));
}

void Usage::set(Segment &segment, Use &use, std::uint64_t pages) {
    segment.mapped = segment.mapped - use.mapped + pages;
    use.mapped = pages;
}

void Usage::release(Client &client, SegmentId id, std::uint64_t now) {
    const auto use = client.uses.find(id);
    if (use == client.uses.end())
        return;
    Segment &segment = *catalog_.find(id);
    set(segment, use->second, 0);
    client.uses.erase(use);
    if (--segment.users == 0)
        segment.unused_since = now;
    if (segment.users == 0 || client.owner.uid == segment.owner.uid)
        let_go(segment, now);
}

void Usage::let_go(Segment &segment, std::uint64_t now) {
    if (segment.kept())
        return;
    if (segment.users != 0)
        find_payer(segment);
    else if (segment.shared && limits_.expire_ms != 0)
        wanted(now + limits_.expire_ms);
    else
        hooks_.drop(segment);
}

// A user none of whose processes has the segment is not to pay for those of others who never let
// go. The first who has room for it pays from now on; where nobody has, all stays as it is.
void Usage::find_payer(Segment &segment) {
    if (segment.kept())
        return;
    std::vector<Owner> others;
    for (const ClientId id : segment.domain->members) {
        const auto member = clients_.find(id); // one may be leaving just now
        if (member == clients_.end() || !member->second.uses.contains(segment.id))
            continue;
        if (member->second.owner.uid == segment.owner.uid)
            return;
        others.push_back(member->second.owner);
    }
    (void)std::any_of(others.begin(), others.end(),
                      [&](const Owner &other) { return hooks_.charge(segment, other); });
}

void Usage::report(ClientId id, SegmentId segment, std::int64_t pages, std::uint64_t now) {
    Client &client = clients_.at(id);
    const auto use = client.uses.find(segment);
    if (use == client.uses.end())
        return; // it has gone meanwhile
    // It is only a report: bounded, so that sums stay sums.
    constexpr std::int64_t kMost = std::int64_t{1} << 40;
    const auto before = static_cast<std::int64_t>(use->second.mapped);
    const std::int64_t change = std::clamp(pages, -kMost, kMost);
    const auto after = std::clamp<std::int64_t>(before + change, 0, kMost);
    set(*catalog_.find(segment), use->second, static_cast<std::uint64_t>(after));
    if (change < 0 && after == 0)
        release(client, segment, now);
}

void Usage::unmapped(ClientId id, std::uint64_t now) {
    want_look(processes_.at(clients_.at(id).owner.process), now + limits_.look_soon_ms);
}

void Usage::look_now(ClientId id, std::uint64_t now) {
    want_look(processes_.at(clients_.at(id).owner.process), now);
}

bool Usage::uses_any(const Process &process) const {
    return std::any_of(process.clients.begin(), process.clients.end(),
                       [&](ClientId id) { return !clients_.at(id).uses.empty(); });
}

std::vector<std::uint64_t> Usage::take_due(std::uint64_t now) {
    std::vector<std::uint64_t> due;
    if (next_ == 0 || now < next_)
        return due;
    for (auto &[number, process] : processes_) {
        if (process.looking || process.look_at == 0 || process.look_at > now)
            continue;
        process.look_at = 0;
        if (!uses_any(process))
            continue;
        process.looking = true;
        due.push_back(number);
    }
    return due;
}

// What a process maps of segments that it never asked for here: it has them from the
// one that forked it.
void Usage::adopt(const Process &process, const Look &look, std::uint64_t now) {
    Client &client = clients_.at(process.clients.front());
    for (const auto &[inode, pages] : look.pages) {
        Segment *const segment = catalog_.by_inode(inode);
        if (segment == nullptr || segment->domain != client.domain)
            continue;
        const bool known =
            std::any_of(process.clients.begin(), process.clients.end(),
                        [&](ClientId id) { return clients_.at(id).uses.contains(segment->id); });
        if (!known)
            begin(client, *segment, pages, now);
    }
}

// Sets what each client maps, and releases what none does. Several clients of one
// process map the same: it counts for the first of them.
void Usage::judge(const Process &process, const Look &look, std::uint64_t started,
                  std::uint64_t now) {
    std::unordered_map<std::uint64_t, std::uint64_t> left = look.pages;
    for (const ClientId id : process.clients) {
        Client &client = clients_.at(id);
        std::vector<SegmentId> over;
        for (auto &[number, use] : client.uses) {
            Segment &segment = *catalog_.find(number);
            const bool settled = use.since + limits_.look_soon_ms <= started;
            if (const auto pages = look.pages.find(segment.inode); pages != look.pages.end()) {
                set(segment, use, std::exchange(left[segment.inode], 0));
                if (client.owner.process == segment.owner.process)
                    hooks_.seen(segment);
            } else if (look.gone || (look.complete && settled)) {
                over.push_back(number);
            }
        }
        for (const SegmentId number : over)
            release(client, number, now);
    }
}

void Usage::seen(std::uint64_t number, const Look &look, std::uint64_t started, std::uint64_t now) {
    const auto found = processes_.find(number);
    if (found == processes_.end())
        return;
    Process &process = found->second;
    process.looking = false;
    if (look.readable && !look.gone)
        adopt(process, look, now);
    if (look.readable || look.gone)
        judge(process, look, started, now);
    if (uses_any(process))
        want_look(process, now + (look.readable ? limits_.look_ms : limits_.blind_ms));
}

std::uint64_t Usage::expire(std::uint64_t now) {
    if (next_ == 0 || now < next_)
        return next_;
    next_ = 0;
    for (const auto &[number, process] : processes_)
        if (!process.looking && process.look_at != 0)
            wanted(process.look_at);
    std::vector<SegmentId> over;
    for (const auto &[id, segment] : catalog_.segments()) {
        if (segment->users != 0 || segment->kept())
            continue;
        if (segment->unused_since + limits_.expire_ms <= now)
            over.push_back(id);
        else
            wanted(segment->unused_since + limits_.expire_ms);
    }
    for (const SegmentId id : over)
        hooks_.drop(*catalog_.find(id));
    return next_;
}

bool Usage::consistent() const {
    std::unordered_map<SegmentId, std::pair<std::uint64_t, std::uint64_t>> sums;
    for (const auto &[id, client] : clients_) {
        for (const auto &[segment, use] : client.uses) {
            ++sums[segment].first;
            sums[segment].second += use.mapped;
        }
    }
    const auto &segments = catalog_.segments();
    return std::all_of(sums.begin(), sums.end(),
                       [&](const auto &sum) { return segments.contains(sum.first); }) &&
           std::all_of(segments.begin(), segments.end(), [&](const auto &segment) {
               return sums[segment.first] ==
                      std::pair(segment.second->users, segment.second->mapped);
           });
}

} // namespace upm::upmd
