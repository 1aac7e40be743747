// SPDX-License-Identifier: MIT
#include "tools/upmd/broker.hpp"

#include "libupm/store/segment.hpp"
#include "tools/upmd/client.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

namespace upm::upmd {

using store::Header;
using store::Op;
using store::Place;

namespace {

// What a named domain is called: the same after each start, and nothing by which its key
// could be found.
std::string key_label(const store::HelloRequest &request) {
    return fmt::format("key:{:08x}", siphash<2, 4>(hash_key(request.key), 0) >> 32U);
}

// Returns true if a look-up in that version of the protocol may have these flags.
bool may_have(unsigned flags, std::uint16_t version) {
    const bool loads = (flags & (store::kCandidates | store::kRemember)) != 0;
    unsigned known = store::kReserve | store::kAttach;
    if (version >= 3)
        known |= store::kCandidates;
    if (version >= 5)
        known |= store::kRemember;
    return (flags & ~known) == 0 && !(loads && (flags & store::kReserve) != 0);
}

} // namespace

Broker::Broker(const Limits &limits, Send send, std::function<std::uint64_t()> random, Make make)
    : limits_(limits), send_(std::move(send)), random_(std::move(random)),
      catalog_(HashKey{.low = random_(), .high = random_()}), ledger_(limits),
      usage_(limits, catalog_,
             {.drop = [this](Segment &segment) { drop(segment); },
              .seen = [this](Segment &segment) { credit(segment); },
              .charge = [this](Segment &segment,
                               const Owner &owner) { return charge(segment, owner); }}),
      seeds_(limits, catalog_, ledger_, random_,
             [this](Segment &segment) {
                 if (segment.users == 0)
                     drop(segment);
                 else
                     usage_.find_payer(segment);
             }),
      make_(std::move(make)), backlog_(limits, catalog_, ledger_, alone_, backlog_hooks()) {}

Broker::~Broker() = default;

ClientId Broker::connect(Peer peer) {
    auto client = std::make_unique<Client>();
    client->id = ++last_client_;
    client->owner = {.uid = peer.uid, .process = peer.process};
    client->peer = std::move(peer);
    ledger_.add(client->owner, &Account::clients, 1);
    clients_.emplace(last_client_, std::move(client));
    return last_client_;
}

void Broker::disconnect(ClientId id, std::uint64_t now) {
    const auto found = clients_.find(id);
    if (found == clients_.end())
        return;
    const std::unique_ptr<Client> client = std::move(found->second);
    clients_.erase(found);
    ledger_.take(client->owner, &Account::clients, 1);
    ledger_.take(client->owner, &Account::names, client->names.size());
    if (ledger_.process(client->owner.process).clients == 0) {
        alone_.forget(client->owner.process);
        backlog_.end_of_process(client->owner.process, now);
        seeds_.end_of_process(client->owner.process, now);
    }
    Domain *const domain = client->domain;
    if (domain == nullptr)
        return;
    if (client->parked != nullptr)
        ledger_.take(client->owner, &Account::parked, 1);
    if (const auto job = jobs_.find(client->job); job != jobs_.end()) {
        ledger_.take(client->owner, &Account::parked, 1);
        std::erase_if(job->second->waiting,
                      [&](const Job::Waiting &waiting) { return waiting.client == id; });
    }
    std::erase(domain->parked, id);
    forget_wanted(*client, 0);
    totals_.reservations_lost += client->reserved.empty() ? 0 : 1;
    end_reservation(*client, now);
    usage_.leave(id, now);
    std::erase(domain->members, id);
    catalog_.leave(*domain);
}

void Broker::send_whole(const Client &client, const Header &header, store::ReplyHeader &head,
                        std::span<std::byte> packet, int fd) const {
    head.header = {.version = client.version,
                   .op = header.op,
                   .length = static_cast<std::uint32_t>(packet.size()),
                   .number = header.number};
    std::memcpy(packet.data(), &head, sizeof(head));
    send_(client.id, packet, fd);
}

void Broker::fail(const Client &client, const Header &header, int error) const {
    store::ReplyHeader head{};
    head.error = error;
    reply(client, header, head);
}

bool Broker::handle(ClientId id, std::span<const std::byte> packet, Brought brought,
                    std::uint64_t now) {
    const auto found = clients_.find(id);
    if (found == clients_.end())
        return false;
    Client &client = *found->second;
    const std::span<const std::byte> whole = packet;
    const bool any_fd = brought.fd || brought.error != 0;
    Header header{};
    const auto is = [&](Op op) { return header.op == static_cast<std::uint16_t>(op); };
    // One request at a time: nothing may come while one is parked, but reports.
    const bool good = store::take(packet, header) && header.magic == store::kMagic &&
                      header.length == whole.size() &&
                      ((client.parked == nullptr && client.job == 0) || is(Op::kReport)) &&
                      (!any_fd || is(Op::kPublish) || is(Op::kMake) || is(Op::kLate)) &&
                      (client.domain == nullptr) == is(Op::kHello) &&
                      (is(Op::kHello) || header.version == client.version) &&
                      dispatch(client, header, whole, std::move(brought), now);
    if (!good) {
        ++totals_.bad;
        tell(client.owner.uid, "it sends packets that are not of the protocol");
    }
    return good;
}

bool Broker::dispatch(Client &client, const Header &header, std::span<const std::byte> packet,
                      Brought brought, std::uint64_t now) {
    const bool bare = packet.size() == sizeof(Header);
    switch (static_cast<Op>(header.op)) {
    case Op::kHello:
        return hello(client, header, packet);
    case Op::kLookup:
        return lookup(client, packet, now);
    case Op::kGet:
        return get(client, packet, now);
    case Op::kPublish:
        return publish(client, packet, std::move(brought), now);
    case Op::kMake:
        return make(client, packet, std::move(brought));
    case Op::kLate:
        return late(client, packet, std::move(brought), now);
    case Op::kReport:
        return report(client, packet, now);
    case Op::kSeed:
        return seed(client, packet, now);
    case Op::kRelease:
        if (bare) {
            end_reservation(client, now);
            reply(client, header, store::ReplyHeader{});
        }
        return bare;
    case Op::kStats:
        if (bare)
            stats(client, header);
        return bare;
    case Op::kMetrics:
        if (bare)
            describe(client, header);
        return bare;
    }
    return false;
}

// What comes behind the known fields is of later versions, and of no concern here.
bool Broker::hello(Client &client, const Header &header, std::span<const std::byte> packet) {
    store::HelloRequest request{};
    const bool first_kind = header.version == 2;
    const std::size_t least = first_kind ? store::kHelloRequestV2 : store::kHelloRequestV3;
    if (packet.size() < least || (first_kind && packet.size() != least))
        return false;
    std::memcpy(&request, packet.data(), std::min(packet.size(), sizeof(request)));
    if (first_kind)
        request.oldest = request.newest = 2;
    if (request.newest < 4)
        std::fill(std::begin(request.token), std::end(request.token), std::uint8_t{0});
    if (request.named > 1 || request.oldest > request.newest)
        return false;
    const std::uint16_t common = std::min(request.newest, store::kVersion);
    if (common < std::max(request.oldest, store::kOldestVersion) ||
        request.page_size != static_cast<std::uint32_t>(::sysconf(_SC_PAGESIZE))) {
        fail(client, header, -EPROTONOSUPPORT);
        return true;
    }
    client.version = common;
    join(client, request);
    store::HelloReply answer{};
    answer.seed = client.domain->seed;
    answer.version = common;
    reply(client, header, answer, -1, first_kind ? store::kHelloReplyV2 : sizeof(answer));
    return true;
}

void Broker::join(Client &client, const store::HelloRequest &request) {
    std::string name = "of " + client.peer.domain;
    if (request.named != 0)
        name =
            "key " + std::string(reinterpret_cast<const char *>(request.key), sizeof(request.key));
    bool made = false;
    Domain &domain = catalog_.domain(name, made);
    if (made) {
        domain.seed = random_();
        domain.label = request.named != 0 ? key_label(request) : client.peer.label;
        if (request.named == 0)
            domain.anchors = std::move(client.peer.anchors);
    }
    client.peer.anchors.clear();
    client.domain = &domain;
    SeedToken token;
    std::memcpy(token.data(), request.token, sizeof(request.token));
    client.seed = seeds_.joined(token, client.owner.uid, domain);
    domain.members.push_back(client.id);
    usage_.enter(client.id, client.owner, domain);
}

bool Broker::lookup(Client &client, std::span<const std::byte> packet, std::uint64_t now) {
    store::LookupRequest request{};
    if (!store::take(packet, request) || request.count == 0 || request.count > store::kMaxPages ||
        !may_have(request.flags, client.version))
        return false;
    Parked lookup{.header = request.header, .flags = request.flags, .hashes = {}};
    lookup.hashes.resize(request.count);
    if (!store::take_all(packet, lookup.hashes.data(), request.count))
        return false;
    if ((request.flags & store::kReserve) == 0) {
        answer_lookup(client, lookup, now);
        return true;
    }
    // A new reservation takes the place of one that was never used.
    end_reservation(client, now);
    const HashTable<ClientId> &reserved = client.domain->reserved;
    const auto behind = std::find_if(lookup.hashes.begin(), lookup.hashes.end(),
                                     [&](std::uint64_t hash) { return reserved.contains(hash); });
    if (behind == lookup.hashes.end() || !ledger_.may_wait(client.owner)) {
        answer_lookup(client, lookup, now);
        return true;
    }
    const std::uint64_t patience =
        request.patience_ms != 0 ? request.patience_ms : store::kDefaultPatienceMs;
    lookup.behind = *behind;
    lookup.until = now + std::min(patience, limits_.wait_ms);
    park(client, std::move(lookup));
    return true;
}

void Broker::park(Client &client, Parked request) {
    ++totals_.waits;
    next_ = next_ == 0 ? request.until : std::min(next_, request.until);
    client.parked = std::make_unique<Parked>(std::move(request));
    ledger_.add(client.owner, &Account::parked, 1);
    client.domain->parked.push_back(client.id);
}

// Answers what waits. Pre: it is in no list any more.
void Broker::unpark(Client &client, std::uint64_t now) {
    const std::unique_ptr<Parked> request = std::move(client.parked);
    ledger_.take(client.owner, &Account::parked, 1);
    answer_lookup(client, *request, now);
}

// Answers those who wait for nothing any more, in the order in which they came.
void Broker::wake_parked(Domain &domain, std::uint64_t now) {
    std::deque<ClientId> waiting;
    waiting.swap(domain.parked);
    for (const ClientId id : waiting) {
        Client &client = *clients_.at(id);
        Parked &request = *client.parked;
        bool held = request.until > now && domain.reserved.contains(request.behind);
        if (request.until > now && !held) {
            const auto behind =
                std::find_if(request.hashes.begin(), request.hashes.end(),
                             [&](std::uint64_t hash) { return domain.reserved.contains(hash); });
            held = behind != request.hashes.end();
            request.behind = held ? *behind : 0;
        }
        if (held)
            domain.parked.push_back(id);
        else
            unpark(client, now);
    }
}

// What somebody else has reserved stays unknown, and is not the client's to publish.
void Broker::answer_lookup(Client &client, const Parked &request, std::uint64_t now) {
    Domain &domain = *client.domain;
    const bool reserve = (request.flags & store::kReserve) != 0;
    const std::size_t count = request.hashes.size();
    store::LookupReply head{};
    std::vector<std::byte> answer(sizeof(head) + count * sizeof(Place));
    std::uint64_t left = reserve ? room(client) : 0;
    const bool candidates = (request.flags & store::kCandidates) != 0;
    Ref ref; // of the hash before
    Ref last;
    std::uint32_t last_name = store::kUnknown;
    Segment *first = nullptr;
    for (std::size_t i = 0; i < count; ++i) {
        const std::uint64_t hash = request.hashes[i];
        const bool again = candidates && i != 0 && request.hashes[i - 1] == hash;
        const Ref known = again ? catalog_.after(ref) : Catalog::find(domain, hash);
        ref = known;
        Place place;
        if (known.segment != 0) {
            totals_.hits += again ? 0 : 1;
            if (known.segment != last.segment)
                last_name = name(client, known.segment);
            last = known;
            place = {.segment = last_name, .page = known.page};
            if (first == nullptr && last_name != store::kUnknown)
                first = catalog_.find(known.segment);
        } else if (!again) {
            ++totals_.misses;
            const auto holder = domain.reserved.find(hash);
            if (reserve && holder == domain.reserved.end()) {
                place.segment = left != 0 ? store::kReserved : store::kRefused;
                if (left != 0) {
                    --left;
                    domain.reserved.emplace(hash, client.id);
                    client.reserved.push_back(hash);
                } else {
                    count_refusal(client, -EDQUOT, 1);
                }
            } else if (reserve && holder->second == client.id) {
                place.segment = store::kReserved;
            } else if ((request.flags & store::kRemember) != 0) {
                place.segment = want(client, hash);
            }
        }
        std::memcpy(answer.data() + sizeof(head) + i * sizeof(place), &place, sizeof(place));
    }
    if (!client.reserved.empty() && reserve) {
        ledger_.add(client.owner, &Account::pages, client.reserved.size());
        client.reserved_until = now + limits_.reservation_ms;
        next_ = next_ == 0 ? client.reserved_until : std::min(next_, client.reserved_until);
    }
    head.count = static_cast<std::uint32_t>(count);
    int fd = -1;
    if ((request.flags & store::kAttach) != 0 && first != nullptr) {
        hand_out(client, *first, false, now);
        fd = first->fd.get();
        head.pages = static_cast<std::uint32_t>(first->pages.size());
    }
    std::memcpy(answer.data(), &head, sizeof(head));
    send_whole(client, request.header, head.reply, answer, fd);
}

// What an answer says of something that is unknown: remembers who was the first to ask.
std::uint32_t Broker::want(Client &client, std::uint64_t hash) {
    HashTable<ClientId> &wanted = client.domain->wanted;
    if (const auto first = wanted.find(hash); first != wanted.end())
        return clients_.at(first->second)->owner.process != client.owner.process ? store::kWanted
                                                                                 : store::kUnknown;
    forget_wanted(client, limits_.client_wanted - 1);
    if (!ledger_.may_want(client.owner))
        return store::kWanted;
    ledger_.add(client.owner, &Account::wanted, 1);
    wanted.emplace(hash, client.id);
    client.wanted.push_back(hash);
    return store::kUnknown;
}

// The oldest, until there are no more than `most`.
void Broker::forget_wanted(Client &client, std::size_t most) {
    while (client.wanted.size() > most) {
        client.domain->wanted.erase(client.wanted.front());
        client.wanted.pop_front();
        ledger_.take(client.owner, &Account::wanted, 1);
    }
}

// The client's number for a segment that holds a page which it has asked for; kUnknown
// if its user has too many.
std::uint32_t Broker::name(Client &client, SegmentId segment) {
    if (const auto known = client.names.find(segment))
        return *known;
    if (!ledger_.may_name(client.owner))
        return store::kUnknown;
    ledger_.add(client.owner, &Account::names, 1);
    return client.names.add(segment);
}

void Broker::end_reservation(Client &client, std::uint64_t now) {
    if (client.reserved.empty())
        return;
    for (const std::uint64_t hash : client.reserved)
        client.domain->reserved.erase(hash);
    ledger_.take(client.owner, &Account::pages, client.reserved.size());
    client.reserved.clear();
    wake_parked(*client.domain, now);
}

bool Broker::get(Client &client, std::span<const std::byte> packet, std::uint64_t now) {
    store::GetRequest request{};
    if (!store::take(packet, request) || !packet.empty())
        return false;
    Segment *const segment = catalog_.find(client.names.segment(request.segment));
    if (segment == nullptr) {
        fail(client, request.header, -ENOENT);
        return true;
    }
    hand_out(client, *segment, false, now);
    store::GetReply answer{};
    answer.segment = request.segment;
    answer.pages = static_cast<std::uint32_t>(segment->pages.size());
    reply(client, request.header, answer, segment->fd.get());
    return true;
}

// Says if a segment can be taken: 0 or -errno.
int Broker::admit(const Client &client, const Brought &brought, std::uint32_t pages,
                  std::uint64_t &inode) const {
    if (!brought.fd)
        return brought.error != 0 ? -brought.error : -EMFILE;
    const int ret = store::check_published(brought.fd.get(), pages);
    if (ret != 0)
        return ret;
    struct stat status {};
    if (::fstat(brought.fd.get(), &status) != 0)
        return -errno;
    inode = status.st_ino;
    return pages <= room(client) ? 0 : -EDQUOT;
}

std::uint64_t Broker::room(const Client &client) const {
    return waits_for_want(client) ? 0 : ledger_.room(client.owner);
}

// What is to be kept for others by an operator's word is kept.
bool Broker::waits_for_want(const Client &client) const {
    return plenty_ && client.seed == 0;
}

void Broker::count_refusal(const Client &client, int error, std::uint64_t pages) {
    if (waits_for_want(client)) {
        ++totals_.put_off;
        return;
    }
    if (error == -EAGAIN)
        return refuse(client.owner.uid, "too many of its requests wait");
    if (error == -EMFILE)
        return refuse(client.owner.uid, "its files did not come through: upmd may start no more "
                                        "threads or open no more files (ulimit -u, -n)");
    if (error != -EDQUOT)
        return refuse(client.owner.uid, "it sends files that cannot be shared");
    const char *const why = ledger_.full(client.owner, pages);
    refuse(client.owner.uid,
           *why != '\0' ? why : "one of its processes loads much, and maps little");
}

void Broker::refuse(uid_t uid, const char *why) {
    ++totals_.refused;
    tell(uid, why);
}

void Broker::refuse_connection(uid_t uid, const char *why) {
    ++totals_.connections_refused;
    tell(uid, why);
}

void Broker::tell(uid_t uid, const char *why) const {
    if (refused_)
        refused_(uid, why);
}

bool Broker::publish(Client &client, std::span<const std::byte> packet, Brought brought,
                     std::uint64_t now) {
    store::PublishRequest request{};
    std::vector<std::uint64_t> hashes;
    if (!store::take(packet, request) || request.count == 0 || request.count > store::kMaxPages)
        return false;
    hashes.resize(request.count);
    if (!store::take_all(packet, hashes.data(), request.count))
        return false;
    // Those who wait are to find the segment, and are woken at the end.
    const std::vector<std::uint64_t> reserved = std::move(client.reserved);
    client.reserved.clear();
    for (const std::uint64_t hash : reserved)
        client.domain->reserved.erase(hash);
    ledger_.take(client.owner, &Account::pages, reserved.size());
    std::uint64_t inode = 0;
    const int ret = admit(client, brought, request.count, inode);
    if (ret == 0) {
        ledger_.add(client.owner, &Account::pages, hashes.size());
        ledger_.add(client.owner, &Account::segments, 1);
        totals_.published += hashes.size();
        Segment &segment =
            catalog_.add(*client.domain, client.owner, hashes, std::move(brought.fd), inode);
        catalog_.enter(segment);
        hand_out(client, segment, true, now);
        store::PublishReply answer{};
        answer.segment = client.names.add(segment.id);
        ledger_.add(client.owner, &Account::names, 1);
        reply(client, request.header, answer);
    } else {
        count_refusal(client, ret, request.count);
        fail(client, request.header, ret);
    }
    wake_parked(*client.domain, now);
    return true;
}

void Broker::drop(Segment &segment) {
    for (const ClientId id : segment.domain->members) {
        const auto member = clients_.find(id); // one may be leaving just now
        if (member != clients_.end() && member->second->names.forget(segment.id))
            ledger_.take(member->second->owner, &Account::names, 1);
    }
    ledger_.take(segment.owner, &Account::pages, segment.pages.size());
    ledger_.take(segment.owner, &Account::segments, 1);
    // Made for nothing: its process has that much less made from now on.
    if (segment.made && !segment.shared && !segment.alone &&
        ledger_.process(segment.owner.process).clients != 0)
        alone_.add(segment.owner, segment.pages.size());
    backlog_.forget(segment);
    ++totals_.dropped;
    catalog_.remove(segment);
}

// What was made for its owner alone is of use to somebody else by now.
bool Broker::charge(Segment &segment, const Owner &owner) {
    const std::uint64_t pages = segment.pages.size();
    if (ledger_.room(owner) < pages)
        return false;
    if (std::exchange(segment.alone, false))
        alone_.credit(segment.owner, pages);
    ledger_.take(segment.owner, &Account::pages, pages);
    ledger_.take(segment.owner, &Account::segments, 1);
    segment.owner = owner;
    ledger_.add(owner, &Account::pages, pages);
    ledger_.add(owner, &Account::segments, 1);
    return true;
}

bool Broker::report(Client &client, std::span<const std::byte> packet, std::uint64_t now) {
    store::ReportRequest request{};
    if (!store::take(packet, request) || !packet.empty())
        return false;
    if (request.segment == store::kUnknown)
        usage_.unmapped(client.id, now);
    else if (client.version >= 4 && request.segment == store::kTrimmed)
        client.domain->trimmed += static_cast<std::uint64_t>(
            std::clamp<std::int64_t>(request.pages, 0, std::int64_t{1} << 32));
    else if (const SegmentId segment = client.names.segment(request.segment); segment != 0)
        usage_.report(client.id, segment, request.pages, now);
    return true;
}

std::uint64_t Broker::expire(std::uint64_t now) {
    began_ = began_ == 0 ? now : began_;
    if (next_ != 0 && next_ <= now) {
        next_ = 0;
        std::vector<Client *> over;
        for (const auto &[id, client] : clients_) {
            if (!client->reserved.empty() && client->reserved_until <= now)
                over.push_back(client.get());
        }
        for (Client *const client : over) {
            ++totals_.reservations_lost;
            end_reservation(*client, now);
        }
        for (const auto &[name, domain] : catalog_.domains())
            wake_parked(*domain, now);
        for (const auto &[id, client] : clients_) {
            const auto wanted = [&](std::uint64_t time) {
                next_ = next_ == 0 ? time : std::min(next_, time);
            };
            if (!client->reserved.empty())
                wanted(client->reserved_until);
            if (client->parked != nullptr)
                wanted(client->parked->until);
        }
    }
    std::uint64_t next = next_;
    for (const std::uint64_t time : {usage_.expire(now), seeds_.expire(now)})
        next = next == 0 || time == 0 ? std::max(next, time) : std::min(next, time);
    return next;
}

} // namespace upm::upmd
