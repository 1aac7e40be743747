// SPDX-License-Identifier: MIT
//
// Requests about seeds (seeds.hpp), and who may say what about which one: a user about its own
// in the domain of the connection, and in all domains if it is where the broker is; root and
// the broker's user there about all. Nobody learns that there are others.
#include "tools/upmd/broker.hpp"
#include "tools/upmd/client.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace upm::upmd {

namespace {

template <std::size_t N>
void copy_text(char (&into)[N], const std::string &text) {
    (void)text.copy(into, N - 1);
}

} // namespace

bool Broker::may_see(const Client &client, const Seed &seed) {
    return client.peer.sees_all || seed.domain == client.domain ||
           (client.peer.ours && client.peer.uid == seed.uid);
}

bool Broker::may_steer(const Client &client, const Seed &seed) {
    return may_see(client, seed) && (client.peer.sees_all || client.peer.uid == seed.uid);
}

bool Broker::seed(Client &client, std::span<const std::byte> packet, std::uint64_t now) {
    store::SeedRequest request{};
    if (client.version < 4 || !store::take(packet, request) || !packet.empty())
        return false;
    switch (static_cast<store::SeedAct>(request.act)) {
    case store::SeedAct::kBegin:
        begin_seed(client, request, now);
        return true;
    case store::SeedAct::kEnd:
        end_seed(client, request, now);
        return true;
    case store::SeedAct::kDrop:
        drop_seeds(client, request, now);
        return true;
    case store::SeedAct::kList:
        list_seeds(client, request.header, now);
        return true;
    }
    return false;
}

store::SeedReply Broker::about_seeds(const Client &client, std::uint64_t now) const {
    store::SeedReply answer{};
    answer.room = ledger_.seed_room(client.owner.uid);
    answer.uptime_s = (now - std::min(now, began_)) / 1000;
    return answer;
}

void Broker::begin_seed(Client &client, const store::SeedRequest &request, std::uint64_t now) {
    constexpr std::uint64_t kMsPerS = 1000;
    const char *const end = std::find(std::begin(request.label), std::end(request.label), '\0');
    int error = 0;
    const store::SeedReply before = about_seeds(client, now);
    Seed *const seed = seeds_.begin({.uid = client.owner.uid,
                                     .domain = client.domain,
                                     .process = client.owner.process,
                                     .label = std::string(request.label, end),
                                     .budget = request.budget,
                                     .expire_ms = request.expire_s * kMsPerS},
                                    now, error);
    if (seed == nullptr) {
        refuse(client.owner.uid, "its seeds have what --seeds allows");
        fail(client, request.header, -error);
        return;
    }
    client.seed = seed->number;
    store::SeedReply answer = before;
    answer.number = seed->number;
    std::memcpy(answer.token, seed->token.data(), sizeof(answer.token));
    reply(client, request.header, answer);
}

store::SeedEntry Broker::entry_of(const Client &client, const Seed &seed) const {
    store::SeedEntry entry{};
    entry.number = seed.number;
    entry.uid = seed.uid;
    entry.open = seed.open ? 1 : 0;
    entry.pages = seed.pages;
    entry.budget = seed.budget;
    entry.missed = seed.missed;
    entry.used = seeds_.used(seed);
    entry.segments = static_cast<std::uint32_t>(seed.segments.size());
    entry.expire_s = static_cast<std::uint32_t>(seed.expire_ms / 1000);
    if (may_steer(client, seed))
        copy_text(entry.label, seed.label);
    copy_text(entry.domain, seed.domain->label);
    return entry;
}

void Broker::end_seed(Client &client, const store::SeedRequest &request, std::uint64_t now) {
    Seed *const seed = seeds_.find(request.number);
    if (seed == nullptr || !may_see(client, *seed)) {
        fail(client, request.header, -ENOENT);
        return;
    }
    if (!may_steer(client, *seed)) {
        fail(client, request.header, -EPERM);
        return;
    }
    const std::vector<store::SeedEntry> entries = {entry_of(client, *seed)};
    (void)seeds_.end(*seed, now);
    store::SeedReply answer = about_seeds(client, now);
    answer.number = request.number;
    reply_entries(client, request.header, answer, entries);
}

void Broker::drop_seeds(Client &client, const store::SeedRequest &request, std::uint64_t now) {
    std::uint64_t dropped = 0;
    int error = request.number != 0 ? -ENOENT : 0;
    std::vector<SeedNumber> over;
    for (const auto &[number, seed] : seeds_.all()) {
        if (request.number == 0 ? seed.domain == client.domain && seed.uid == client.owner.uid
                                : number == request.number && may_see(client, seed)) {
            error = may_steer(client, seed) ? 0 : -EPERM;
            if (error == 0)
                over.push_back(number);
        }
    }
    if (error != 0) {
        fail(client, request.header, error);
        return;
    }
    for (const SeedNumber number : over)
        if (Seed *const seed = seeds_.find(number)) // the end of one may have ended it
            dropped += seeds_.drop(*seed);
    store::SeedReply answer = about_seeds(client, now);
    answer.dropped = dropped;
    answer.number = over.size();
    reply(client, request.header, answer);
}

void Broker::list_seeds(Client &client, const store::Header &header, std::uint64_t now) {
    store::SeedReply answer = about_seeds(client, now);
    std::vector<store::SeedEntry> entries;
    for (const auto &[number, seed] : seeds_.all()) {
        if (!may_see(client, seed))
            continue;
        if (entries.size() < store::kMaxSeedsListed)
            entries.push_back(entry_of(client, seed));
        else
            ++answer.more;
    }
    reply_entries(client, header, answer, entries);
}

void Broker::reply_entries(const Client &client, const store::Header &header,
                           store::SeedReply answer,
                           const std::vector<store::SeedEntry> &entries) const {
    answer.count = static_cast<std::uint32_t>(entries.size());
    const std::size_t size = entries.size() * sizeof(store::SeedEntry);
    std::vector<std::byte> packet(sizeof(answer) + size);
    std::memcpy(packet.data(), &answer, sizeof(answer));
    if (size != 0)
        std::memcpy(packet.data() + sizeof(answer), entries.data(), size);
    send_whole(client, header, answer.reply, packet, -1);
}

} // namespace upm::upmd
