// SPDX-License-Identifier: MIT
#include "cuda-cow/broker/store.hpp"

#include <algorithm>
#include <cerrno>
#include <sys/random.h>
#include <unistd.h>

namespace upm::cuda::broker {

namespace {

// More than any device has, and so little that no sum of them is ever too large.
constexpr std::uint64_t kMaxExtent = 1ULL << 40;

} // namespace

Store::~Store() {
    for (auto &[key, extent] : extents_)
        if (extent.fd >= 0)
            ::close(extent.fd);
}

int Store::join(Member member, const std::string &domain, const std::uint8_t (&device)[16],
                Welcome &welcome, uid_t user) {
    if (members_.contains(member))
        return EALREADY;
    const auto [found, added] = domains_.try_emplace(domain);
    if (added) {
        std::uint64_t seed[2] = {};
        if (::getrandom(seed, sizeof seed, 0) != static_cast<ssize_t>(sizeof seed)) {
            domains_.erase(found);
            return EAGAIN;
        }
        found->second.seed_low = seed[0];
        found->second.seed_high = seed[1];
    }
    ++found->second.members;
    Joined joined{.domain = domain, .user = user, .leases = {}, .reservations = {}};
    std::copy(std::begin(device), std::end(device), joined.device.begin());
    members_.emplace(member, std::move(joined));
    welcome.seed_low = found->second.seed_low;
    welcome.seed_high = found->second.seed_high;
    welcome.pid = ::getpid();
    return 0;
}

void Store::leave(Member member) {
    const auto found = members_.find(member);
    if (found == members_.end())
        return;
    const std::set<Id> reservations = found->second.reservations;
    for (const Id id : reservations)
        (void)abandon(member, id);
    const std::set<Id> leases = found->second.leases;
    for (const Id id : leases)
        (void)release(member, id);
    const std::string domain = found->second.domain;
    members_.erase(found);
    --domains_.at(domain).members;
    forget_domain_if_unused(domain);
}

bool Store::full(const Key &key, uid_t user) const {
    const auto has = users_.find(user);
    return extents_.size() >= limits_.extents ||
           (has != users_.end() && has->second >= limits_.user_extents) ||
           (limits_.domain_bytes != 0 &&
            domains_.at(key.domain).bytes + key.bytes > limits_.domain_bytes);
}

void Store::charge(Extent &extent, uid_t user) {
    extent.user = user;
    ++users_[user];
}

void Store::discharge(uid_t user) {
    if (const auto found = users_.find(user); --found->second == 0)
        users_.erase(found);
}

// Pre: nobody else has promised it, or for too long.
Answer Store::promise(Member member, std::map<Key, Extent>::iterator extent, Time now) {
    const Id id = next_id_++;
    extent->second.promise = id;
    extent->second.promised = now;
    reservations_.emplace(id, Holding{member, extent});
    members_.at(member).reservations.insert(id);
    return {.state = State::kReserved, .id = id};
}

// Reservations have rising ids, so the first is the oldest.
std::optional<Time> Store::next_overdue() const {
    if (reservations_.empty())
        return std::nullopt;
    return reservations_.begin()->second.extent->second.promised + limits_.patience;
}

Answer Store::find(Member member, const Content &content, Time now, int &fd) {
    Joined &joined = members_.at(member);
    const Key key{joined.domain, joined.device, content.bytes, content.tag_low, content.tag_high};
    auto found = extents_.find(key);
    if (found != extents_.end() && found->second.fd < 0) {
        const auto held = reservations_.find(found->second.promise);
        if (held->second.member == member || now < found->second.promised + limits_.patience)
            return {.state = State::kBusy};
        members_.at(held->second.member).reservations.erase(held->first);
        reservations_.erase(held);
        discharge(found->second.user);
        charge(found->second, joined.user);
        return promise(member, found, now);
    }
    if (found != extents_.end()) {
        if (found->second.leases++ == 0)
            take_into_use(found);
        const Id id = next_id_++;
        leases_.emplace(id, Holding{member, found});
        joined.leases.insert(id);
        ++counters_.found;
        fd = found->second.fd;
        return {.state = State::kShared, .id = id};
    }
    if (content.bytes == 0 || content.bytes > kMaxExtent || full(key, joined.user) ||
        joined.reservations.size() >= limits_.promises) {
        ++counters_.refused;
        return {.state = State::kRefused};
    }
    found = extents_.emplace(key, Extent{}).first;
    charge(found->second, joined.user);
    ++domains_.at(key.domain).extents;
    return promise(member, found, now);
}

int Store::publish(Member member, Id reservation, int fd) {
    const auto found = reservations_.find(reservation);
    if (found == reservations_.end() || found->second.member != member) {
        ::close(fd);
        return ESTALE;
    }
    const auto extent = found->second.extent;
    Domain &domain = domains_.at(extent->first.domain);
    // Others may have published since the reservation was given.
    if (limits_.domain_bytes != 0 && domain.bytes + extent->first.bytes > limits_.domain_bytes) {
        ::close(fd);
        (void)abandon(member, reservation);
        ++counters_.refused;
        return ENOSPC;
    }
    extent->second.fd = fd;
    extent->second.leases = 1;
    domain.bytes += extent->first.bytes;
    bytes_ += extent->first.bytes;
    leases_.emplace(reservation, Holding{member, extent});
    Joined &joined = members_.at(member);
    joined.reservations.erase(reservation);
    joined.leases.insert(reservation);
    reservations_.erase(found);
    ++counters_.published;
    return 0;
}

int Store::abandon(Member member, Id reservation) {
    const auto found = reservations_.find(reservation);
    if (found == reservations_.end() || found->second.member != member)
        return ENOENT;
    const auto extent = found->second.extent;
    members_.at(member).reservations.erase(reservation);
    reservations_.erase(found);
    forget(extent);
    return 0;
}

int Store::release(Member member, Id lease) {
    const auto found = leases_.find(lease);
    if (found == leases_.end() || found->second.member != member)
        return ENOENT;
    const auto extent = found->second.extent;
    members_.at(member).leases.erase(lease);
    leases_.erase(found);
    drop_lease(extent);
    return 0;
}

void Store::unpublish(Member member, Id lease) {
    const auto found = leases_.find(lease);
    if (found == leases_.end() || found->second.member != member)
        return;
    const auto extent = found->second.extent;
    members_.at(member).leases.erase(lease);
    leases_.erase(found);
    if (--extent->second.leases == 0)
        forget(extent);
}

void Store::drop_lease(std::map<Key, Extent>::iterator extent) {
    if (--extent->second.leases != 0)
        return;
    extent->second.unused_since = ++clock_;
    unused_.emplace(clock_, extent);
    unused_bytes_ += extent->first.bytes;
    trim();
}

void Store::take_into_use(std::map<Key, Extent>::iterator extent) {
    unused_.erase(extent->second.unused_since);
    extent->second.unused_since = 0;
    unused_bytes_ -= extent->first.bytes;
}

void Store::trim() {
    while (unused_bytes_ > limits_.keep_bytes) {
        const auto oldest = unused_.begin()->second;
        take_into_use(oldest);
        forget(oldest);
    }
}

// Pre: nobody holds the extent.
void Store::forget(std::map<Key, Extent>::iterator extent) {
    const std::string name = extent->first.domain;
    Domain &domain = domains_.at(name);
    if (extent->second.fd >= 0) {
        ::close(extent->second.fd);
        domain.bytes -= extent->first.bytes;
        bytes_ -= extent->first.bytes;
    }
    --domain.extents;
    discharge(extent->second.user);
    extents_.erase(extent);
    forget_domain_if_unused(name);
}

void Store::forget_domain_if_unused(const std::string &name) {
    const auto found = domains_.find(name);
    if (found != domains_.end() && found->second.members == 0 && found->second.extents == 0)
        domains_.erase(found);
}

bool Store::holds_reservation(Member member) const {
    const auto found = members_.find(member);
    return found != members_.end() && !found->second.reservations.empty();
}

Counters Store::counters() const {
    Counters now = counters_;
    now.extents = extents_.size() - reservations_.size();
    now.bytes = bytes_;
    now.leases = leases_.size();
    now.reservations = reservations_.size();
    now.members = members_.size();
    now.domains = domains_.size();
    return now;
}

} // namespace upm::cuda::broker
