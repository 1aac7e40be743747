// SPDX-License-Identifier: MIT
#include "tools/upmd/broker.hpp"

#include "libupm/store/segment.hpp"

#include <algorithm>
#include <cerrno>
#include <fmt/format.h>
#include <iterator>
#include <unistd.h>
#include <unordered_set>

namespace upm::upmd {

using store::Header;
using store::Op;
using store::Place;

struct Broker::Segment {
    std::uint32_t id;
    Descriptor fd;
    Domain *domain;
    uid_t uid; // whose quota it takes
    std::vector<std::uint64_t> hashes;
    std::uint64_t users = 0;  // clients that have it
    std::uint64_t mapped = 0; // pages, by the reports of these
    std::uint64_t unused_since = 0;

    [[nodiscard]] std::uint64_t pages() const { return hashes.size(); }
};

// A request that waits until nobody else holds what it asks for.
struct Broker::Parked {
    Header header;
    std::uint32_t flags;
    std::vector<std::uint64_t> hashes;
};

struct Broker::Domain {
    std::string name; // "user 1000", or "key " and the key
    uid_t uid = 0;    // of an unnamed one
    bool named = false;
    std::uint64_t seed = 0;
    std::uint64_t number = 0; // for metrics, which must not tell a key
    std::unordered_map<std::uint64_t, Place> index;
    std::unordered_map<std::uint64_t, ClientId> reserved;
    std::uint64_t segments = 0;
    std::uint64_t pages = 0;
    std::vector<ClientId> members;
    std::deque<ClientId> parked; // in the order of their requests
};

struct Broker::Client {
    ClientId id;
    uid_t uid;
    Domain *domain = nullptr; // after hello
    std::vector<std::uint64_t> lease;
    std::uint64_t lease_end = 0;
    std::unordered_map<std::uint32_t, std::uint64_t> mapped; // pages, by segment
    std::unique_ptr<Parked> parked;
};

Broker::Broker(const Limits &limits, Send send, std::function<std::uint64_t()> random)
    : limits_(limits), send_(std::move(send)), random_(std::move(random)) {}

Broker::~Broker() = default;

ClientId Broker::connect(uid_t uid) {
    auto client = std::make_unique<Client>();
    client->id = ++last_client_;
    client->uid = uid;
    ++users_[uid].clients;
    clients_.emplace(last_client_, std::move(client));
    return last_client_;
}

void Broker::disconnect(ClientId id, std::uint64_t now) {
    const auto found = clients_.find(id);
    if (found == clients_.end())
        return;
    const std::unique_ptr<Client> client = std::move(found->second);
    clients_.erase(found);
    Domain *const domain = client->domain;
    if (!client->lease.empty())
        ++totals_.leases_lost;
    end_lease(*client);
    for (const auto &[segment_id, pages] : client->mapped) {
        Segment &segment = *segments_.at(segment_id);
        segment.mapped -= pages;
        if (--segment.users == 0)
            segment.unused_since = now;
    }
    if (const auto user = users_.find(client->uid);
        --user->second.clients == 0 && user->second.pages == 0)
        users_.erase(user);
    if (domain == nullptr)
        return;
    std::erase(domain->members, id);
    std::erase(domain->parked, id);
    wake_parked(*domain, now);
    drop_domain(*domain);
}

void Broker::drop_domain(Domain &domain) {
    if (domain.members.empty() && domain.segments == 0)
        domains_.erase(std::string(domain.name));
}

template <class Reply>
void Broker::reply(const Client &client, const Header &header, Reply body, int fd) const {
    store::ReplyHeader &head = [&]() -> store::ReplyHeader & {
        if constexpr (std::is_same_v<Reply, store::ReplyHeader>)
            return body;
        else
            return body.reply;
    }();
    head.header = {.op = header.op, .length = sizeof(body), .number = header.number};
    send_(client.id, std::as_bytes(std::span<Reply, 1>(&body, 1)), fd);
}

void Broker::fail(const Client &client, const Header &header, int error) const {
    store::ReplyHeader head{};
    head.error = error;
    reply(client, header, head);
}

bool Broker::handle(ClientId id, std::span<const std::byte> packet, Descriptor fd,
                    std::uint64_t now) {
    const auto found = clients_.find(id);
    if (found == clients_.end())
        return false;
    Client &client = *found->second;
    const std::span<const std::byte> whole = packet;
    Header header{};
    // One request at a time: nothing may come while one is parked, but reports.
    const bool good =
        store::take(packet, header) && header.magic == store::kMagic &&
        header.version == store::kVersion && header.length == whole.size() &&
        (client.parked == nullptr || header.op == static_cast<std::uint16_t>(Op::kReport)) &&
        (!fd || header.op == static_cast<std::uint16_t>(Op::kPublish)) &&
        (client.domain == nullptr) == (header.op == static_cast<std::uint16_t>(Op::kHello)) &&
        dispatch(client, header, whole, std::move(fd), now);
    if (!good)
        ++totals_.bad;
    return good;
}

bool Broker::dispatch(Client &client, const Header &header, std::span<const std::byte> packet,
                      Descriptor fd, std::uint64_t now) {
    switch (static_cast<Op>(header.op)) {
    case Op::kHello:
        return hello(client, header, packet);
    case Op::kLookup:
        return lookup(client, packet, now);
    case Op::kGet:
        return get(client, packet);
    case Op::kPublish:
        return publish(client, packet, std::move(fd), now);
    case Op::kReport:
        return report(client, packet);
    case Op::kRelease:
        if (packet.size() != sizeof(Header))
            return false;
        end_lease(client);
        reply(client, header, store::ReplyHeader{});
        wake_parked(*client.domain, now);
        return true;
    case Op::kStats:
        if (packet.size() != sizeof(Header))
            return false;
        stats(client, header);
        return true;
    case Op::kMetrics: {
        if (packet.size() != sizeof(Header))
            return false;
        const std::string text = metrics(client.uid).substr(0, store::kMaxText);
        std::vector<std::byte> answer(sizeof(store::ReplyHeader) + text.size());
        store::ReplyHeader head{};
        head.header = {.op = header.op,
                       .length = static_cast<std::uint32_t>(answer.size()),
                       .number = header.number};
        std::memcpy(answer.data(), &head, sizeof(head));
        std::memcpy(answer.data() + sizeof(head), text.data(), text.size());
        send_(client.id, answer, -1);
        return true;
    }
    }
    return false;
}

bool Broker::hello(Client &client, const Header &header, std::span<const std::byte> packet) {
    store::HelloRequest request{};
    if (!store::take(packet, request) || !packet.empty() || request.named > 1)
        return false;
    if (request.page_size != static_cast<std::uint32_t>(::sysconf(_SC_PAGESIZE))) {
        fail(client, header, -EPROTONOSUPPORT);
        return true;
    }
    std::string name = fmt::format("user {}", client.uid);
    if (request.named != 0)
        name =
            "key " + std::string(reinterpret_cast<const char *>(request.key), sizeof(request.key));
    std::unique_ptr<Domain> &domain = domains_[name];
    if (domain == nullptr) {
        domain = std::make_unique<Domain>();
        domain->name = name;
        domain->uid = client.uid;
        domain->named = request.named != 0;
        domain->seed = random_();
        domain->number = client.id;
    }
    client.domain = domain.get();
    domain->members.push_back(client.id);
    store::HelloReply answer{};
    answer.seed = domain->seed;
    reply(client, header, answer);
    return true;
}

// Pages that the client may still publish.
std::uint64_t Broker::allowed(const Client &client) const {
    const std::uint64_t own = users_.at(client.uid).pages;
    const std::uint64_t user = limits_.quota_pages - std::min(limits_.quota_pages, own);
    const std::uint64_t all = limits_.max_pages - std::min(limits_.max_pages, pages_);
    return segments_.size() < limits_.max_segments ? std::min(user, all) : 0;
}

bool Broker::lookup(Client &client, std::span<const std::byte> packet, std::uint64_t now) {
    store::LookupRequest request{};
    std::vector<std::uint64_t> hashes;
    if (!store::take(packet, request) || request.count == 0 || request.count > store::kMaxPages ||
        (request.flags & ~std::uint32_t{store::kReserve | store::kAttach}) != 0)
        return false;
    hashes.resize(request.count);
    if (!store::take_all(packet, hashes.data(), request.count))
        return false;
    // A new reservation takes the place of one that was never used.
    if ((request.flags & store::kReserve) != 0 && !client.lease.empty()) {
        end_lease(client);
        wake_parked(*client.domain, now);
    }
    if (!answer_lookup(client, request.header, request.flags, hashes, now)) {
        ++totals_.waits;
        client.parked = std::make_unique<Parked>(
            Parked{.header = request.header, .flags = request.flags, .hashes = std::move(hashes)});
        client.domain->parked.push_back(client.id);
    }
    return true;
}

// False: somebody else is about to publish some of it.
bool Broker::answer_lookup(Client &client, const Header &header, std::uint32_t flags,
                           std::span<const std::uint64_t> hashes, std::uint64_t now) {
    Domain &domain = *client.domain;
    const bool reserve = (flags & store::kReserve) != 0;
    if (reserve)
        for (const std::uint64_t hash : hashes)
            if (domain.reserved.contains(hash))
                return false;

    std::vector<Place> places(hashes.size());
    std::uint64_t left = reserve ? allowed(client) : 0;
    for (std::size_t i = 0; i < hashes.size(); ++i) {
        const auto known = domain.index.find(hashes[i]);
        if (known != domain.index.end()) {
            places[i] = known->second;
            ++totals_.hits;
            continue;
        }
        ++totals_.misses;
        if (!reserve)
            continue;
        if (!domain.reserved.contains(hashes[i])) {
            if (left == 0) {
                places[i].segment = store::kRefused;
                ++totals_.refused;
                continue;
            }
            --left;
            domain.reserved.emplace(hashes[i], client.id);
            client.lease.push_back(hashes[i]);
        }
        places[i].segment = store::kReserved;
    }
    if (reserve && !client.lease.empty()) {
        client.lease_end = now + limits_.lease_ms;
        users_[client.uid].pages += client.lease.size();
        pages_ += client.lease.size();
    }

    store::LookupReply head{};
    head.count = static_cast<std::uint32_t>(places.size());
    int fd = -1;
    const auto first = std::find_if(places.begin(), places.end(), [](const Place &place) {
        return store::is_segment(place.segment);
    });
    if ((flags & store::kAttach) != 0 && first != places.end()) {
        Segment &segment = *segments_.at(first->segment);
        use(client, segment);
        fd = segment.fd.get();
        head.pages = static_cast<std::uint32_t>(segment.pages());
    }
    std::vector<std::byte> answer(sizeof(head) + places.size() * sizeof(Place));
    head.reply.header = {.op = header.op,
                         .length = static_cast<std::uint32_t>(answer.size()),
                         .number = header.number};
    std::memcpy(answer.data(), &head, sizeof(head));
    std::memcpy(answer.data() + sizeof(head), places.data(), places.size() * sizeof(Place));
    send_(client.id, answer, fd);
    return true;
}

void Broker::end_lease(Client &client) {
    for (const std::uint64_t hash : client.lease)
        client.domain->reserved.erase(hash);
    users_[client.uid].pages -= client.lease.size();
    pages_ -= client.lease.size();
    client.lease.clear();
}

void Broker::wake_parked(Domain &domain, std::uint64_t now) {
    std::deque<ClientId> waiting;
    waiting.swap(domain.parked);
    for (const ClientId id : waiting) {
        Client &client = *clients_.at(id);
        const Parked &request = *client.parked;
        if (answer_lookup(client, request.header, request.flags, request.hashes, now))
            client.parked.reset();
        else
            domain.parked.push_back(id);
    }
}

void Broker::use(Client &client, Segment &segment) {
    if (client.mapped.emplace(segment.id, 0).second)
        ++segment.users;
}

bool Broker::get(Client &client, std::span<const std::byte> packet) {
    store::GetRequest request{};
    if (!store::take(packet, request) || !packet.empty())
        return false;
    const auto found = segments_.find(request.segment);
    // That of another domain is as unknown as one that does not exist.
    if (found == segments_.end() || found->second->domain != client.domain) {
        fail(client, request.header, -ENOENT);
        return true;
    }
    Segment &segment = *found->second;
    use(client, segment);
    store::GetReply answer{};
    answer.segment = segment.id;
    answer.pages = static_cast<std::uint32_t>(segment.pages());
    reply(client, request.header, answer, segment.fd.get());
    return true;
}

// Whether a segment can be taken: 0 or -errno.
int Broker::admit(const Client &client, int fd, std::uint32_t pages) const {
    if (fd < 0)
        return -EMFILE; // none came along, or there was no room for one
    const int ret = store::check_segment(fd, pages);
    if (ret != 0)
        return ret;
    return allowed(client) < pages ? -EDQUOT : 0;
}

bool Broker::publish(Client &client, std::span<const std::byte> packet, Descriptor fd,
                     std::uint64_t now) {
    store::PublishRequest request{};
    std::vector<std::uint64_t> hashes;
    if (!store::take(packet, request) || request.count == 0 || request.count > store::kMaxPages)
        return false;
    hashes.resize(request.count);
    if (!store::take_all(packet, hashes.data(), request.count))
        return false;
    end_lease(client);
    const int ret = admit(client, fd.get(), request.count);
    const std::uint32_t id = ret == 0 ? free_id() : 0;
    if (ret == 0) {
        add_segment(client, hashes, std::move(fd), id);
        store::PublishReply answer{};
        answer.segment = id;
        reply(client, request.header, answer);
    } else {
        ++totals_.refused;
        fail(client, request.header, ret);
    }
    wake_parked(*client.domain, now);
    return true;
}

std::uint32_t Broker::free_id() {
    do
        last_segment_ = last_segment_ < store::kLastSegment ? last_segment_ + 1 : 1;
    while (segments_.contains(last_segment_));
    return last_segment_;
}

void Broker::add_segment(Client &client, std::span<const std::uint64_t> hashes, Descriptor fd,
                         std::uint32_t id) {
    Domain &domain = *client.domain;
    auto segment = std::make_unique<Segment>();
    segment->id = id;
    segment->fd = std::move(fd);
    segment->domain = &domain;
    segment->uid = client.uid;
    segment->hashes.assign(hashes.begin(), hashes.end());
    // Who was first stays: others may be using it already.
    for (std::uint32_t i = 0; i < hashes.size(); ++i)
        domain.index.emplace(hashes[i], Place{.segment = id, .page = i});
    ++domain.segments;
    domain.pages += hashes.size();
    users_[client.uid].pages += hashes.size();
    pages_ += hashes.size();
    totals_.published += hashes.size();
    use(client, *segment);
    segments_.emplace(id, std::move(segment));
}

void Broker::drop(std::uint32_t id) {
    const auto found = segments_.find(id);
    const std::unique_ptr<Segment> segment = std::move(found->second);
    segments_.erase(found);
    Domain &domain = *segment->domain;
    for (const std::uint64_t hash : segment->hashes) {
        const auto known = domain.index.find(hash);
        if (known != domain.index.end() && known->second.segment == id)
            domain.index.erase(known);
    }
    --domain.segments;
    domain.pages -= segment->pages();
    pages_ -= segment->pages();
    const auto user = users_.find(segment->uid);
    user->second.pages -= segment->pages();
    if (user->second.pages == 0 && user->second.clients == 0)
        users_.erase(user);
    ++totals_.expired;
    drop_domain(domain);
}

bool Broker::report(Client &client, std::span<const std::byte> packet) {
    store::ReportRequest request{};
    if (!store::take(packet, request) || !packet.empty())
        return false;
    const auto mapped = client.mapped.find(request.segment);
    if (mapped == client.mapped.end())
        return true; // it has gone meanwhile
    // It is only a report: bounded, so that sums stay sums.
    constexpr std::int64_t kMost = std::int64_t{1} << 40;
    const auto before = static_cast<std::int64_t>(mapped->second);
    const std::int64_t change = std::clamp(request.pages, -kMost, kMost);
    const auto after =
        static_cast<std::uint64_t>(std::clamp<std::int64_t>(before + change, 0, kMost));
    Segment &segment = *segments_.at(request.segment);
    segment.mapped = segment.mapped - mapped->second + after;
    mapped->second = after;
    return true;
}

void Broker::stats(Client &client, const Header &header) {
    store::StatsReply answer{};
    std::uint64_t mapped = 0;
    for (const auto &[id, segment] : segments_) {
        if (segment->domain != client.domain)
            continue;
        (segment->users != 0 ? answer.pages_shared : answer.pages_unused) += segment->pages();
        mapped += segment->mapped;
        // A node of the index, a hash, and the page cache's own share is not counted.
        answer.metadata_bytes += sizeof(Segment) + segment->pages() * 48;
    }
    answer.pages_sharing = mapped > answer.pages_shared ? mapped - answer.pages_shared : 0;
    answer.max_pages = limits_.quota_pages;
    reply(client, header, answer);
}

std::uint64_t Broker::expire(std::uint64_t now) {
    std::uint64_t next = 0;
    const auto wanted = [&](std::uint64_t time) { next = next == 0 ? time : std::min(next, time); };
    std::vector<Domain *> changed;
    for (const auto &[id, client] : clients_) {
        if (client->lease.empty())
            continue;
        if (client->lease_end <= now) {
            end_lease(*client);
            ++totals_.leases_lost;
            changed.push_back(client->domain);
        } else {
            wanted(client->lease_end);
        }
    }
    for (Domain *const domain : changed)
        wake_parked(*domain, now);
    for (const auto &[id, client] : clients_)
        if (!client->lease.empty())
            wanted(client->lease_end);
    std::vector<std::uint32_t> over;
    for (const auto &[id, segment] : segments_) {
        if (segment->users != 0)
            continue;
        if (segment->unused_since + limits_.expire_ms <= now)
            over.push_back(id);
        else
            wanted(segment->unused_since + limits_.expire_ms);
    }
    for (const std::uint32_t id : over)
        drop(id);
    return next;
}

std::string Broker::metrics(uid_t uid) const {
    std::string text;
    const auto line = [&](std::string_view name, std::uint64_t value) {
        text += fmt::format("upmd_{} {}\n", name, value);
    };
    if (uid == 0) { // sums over all users
        line("clients", clients_.size());
        line("segments", segments_.size());
        line("pages", pages_);
        line("max_pages", limits_.max_pages);
        line("lookup_hits_total", totals_.hits);
        line("lookup_misses_total", totals_.misses);
        line("lookup_waits_total", totals_.waits);
        line("published_pages_total", totals_.published);
        line("refused_total", totals_.refused);
        line("bad_packets_total", totals_.bad);
        line("leases_lost_total", totals_.leases_lost);
        line("expired_segments_total", totals_.expired);
    }
    line("quota_pages", limits_.quota_pages);
    for (const auto &[name, domain] : domains_) {
        const bool member = std::any_of(domain->members.begin(), domain->members.end(),
                                        [&](ClientId id) { return clients_.at(id)->uid == uid; });
        if (uid != 0 && !member)
            continue;
        // A key must not be told.
        const std::string label = domain->named ? fmt::format("key:{}", domain->number)
                                                : fmt::format("user:{}", domain->uid);
        std::uint64_t mapped = 0;
        std::uint64_t unused = 0;
        for (const auto &[id, segment] : segments_) {
            if (segment->domain != domain.get())
                continue;
            mapped += segment->mapped;
            unused += segment->users == 0 ? segment->pages() : 0;
        }
        const std::pair<const char *, std::uint64_t> values[] = {
            {"clients", domain->members.size()},
            {"waiting", domain->parked.size()},
            {"segments", domain->segments},
            {"pages", domain->pages},
            {"unused_pages", unused},
            {"mapped_pages", mapped}};
        for (const auto &[what, value] : values)
            line(fmt::format("domain_{}{{domain=\"{}\"}}", what, label), value);
    }
    return text;
}

bool Broker::consistent() const {
    std::map<uid_t, User> users;
    std::uint64_t pages = 0;
    std::map<std::uint32_t, std::pair<std::uint64_t, std::uint64_t>> uses;
    for (const auto &[id, client] : clients_) {
        ++users[client->uid].clients;
        users[client->uid].pages += client->lease.size();
        pages += client->lease.size();
        for (const auto &[segment, mapped] : client->mapped) {
            ++uses[segment].first;
            uses[segment].second += mapped;
        }
        for (const std::uint64_t hash : client->lease)
            if (client->domain->reserved.at(hash) != id)
                return false;
    }
    for (const auto &[id, segment] : segments_) {
        users[segment->uid].pages += segment->pages();
        pages += segment->pages();
        if (uses[id] != std::pair(segment->users, segment->mapped))
            return false;
    }
    for (const auto &[name, domain] : domains_)
        for (const auto &[hash, place] : domain->index)
            if (!segments_.contains(place.segment) ||
                segments_.at(place.segment)->hashes.at(place.page) != hash)
                return false;
    return pages == pages_ && pages <= limits_.max_pages && users.size() == users_.size() &&
           std::equal(users.begin(), users.end(), users_.begin(), [](const auto &a, const auto &b) {
               return a.first == b.first && a.second.pages == b.second.pages &&
                      a.second.clients == b.second.clients;
           });
}

} // namespace upm::upmd
