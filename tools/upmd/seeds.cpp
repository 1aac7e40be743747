// SPDX-License-Identifier: MIT
#include "tools/upmd/seeds.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace upm::upmd {

namespace {

// Of a seed, where processes have theirs: above all numbers of processes.
constexpr std::uint64_t kSeedOwner = std::uint64_t{1} << 63U;
constexpr std::size_t kMostMissed = 4096; // segments of a seed, each counted once

} // namespace

Owner Seeds::owner(const Seed &seed) {
    return {.uid = seed.uid, .process = kSeedOwner | seed.number};
}

Seed *Seeds::begin(const Wish &wish, std::uint64_t now, int &error) {
    const std::uint64_t room = ledger_.seed_room(wish.uid);
    error = limits_.seed_pages == 0 ? EPERM : room == 0 || !ledger_.may_seed(wish.uid) ? EDQUOT : 0;
    if (error != 0)
        return nullptr;
    Seed &seed = seeds_[++last_];
    seed.number = last_;
    for (std::size_t at = 0; at < seed.token.size(); at += sizeof(std::uint64_t)) {
        const std::uint64_t word = random_() | 1U; // no token of zeros
        std::memcpy(seed.token.data() + at, &word, sizeof(word));
    }
    seed.uid = wish.uid;
    seed.domain = wish.domain;
    seed.process = wish.process;
    seed.label = wish.label;
    seed.budget = wish.budget != 0 ? wish.budget : room;
    seed.expire_ms = wish.expire_ms;
    seed.used_at = now;
    ++wish.domain->seeds;
    ledger_.add(owner(seed), &Account::seeds, 1);
    return &seed;
}

SeedNumber Seeds::joined(const SeedToken &token, uid_t uid, const Domain &domain) const {
    if (token == SeedToken{})
        return 0;
    const auto found = std::find_if(seeds_.begin(), seeds_.end(), [&](const auto &each) {
        const Seed &seed = each.second;
        return seed.token == token && seed.uid == uid && seed.domain == &domain;
    });
    return found != seeds_.end() ? found->first : 0;
}

Seed *Seeds::find(SeedNumber number) {
    const auto found = seeds_.find(number);
    return found != seeds_.end() ? &found->second : nullptr;
}

// Has the seed's user pay for a segment from now on. Returns false if there is no room.
bool Seeds::pay(const Seed &seed, Segment &segment) {
    const std::uint64_t pages = segment.pages.size();
    const Owner payer = owner(seed);
    if (ledger_.seed_room(seed.uid) < pages ||
        (segment.owner.uid != seed.uid && ledger_.room(payer) < pages))
        return false;
    ledger_.take(segment.owner, &Account::pages, pages);
    ledger_.take(segment.owner, &Account::segments, 1);
    segment.owner = payer;
    ledger_.add(payer, &Account::pages, pages);
    ledger_.add(payer, &Account::segments, 1);
    ledger_.add(payer, &Account::kept, pages);
    return true;
}

void Seeds::miss(Seed &seed, const Segment &segment) {
    if (seed.without.size() < kMostMissed && seed.without.insert(segment.id).second)
        seed.missed += segment.pages.size();
}

bool Seeds::keep(SeedNumber number, Segment &segment, std::uint64_t now) {
    Seed *const seed = find(number);
    if (seed == nullptr)
        return false;
    seed->used_at = now;
    if (seed->segments.contains(segment.id))
        return true;
    if (!seed->open)
        return false;
    const std::uint64_t left = seed->budget - std::min(seed->budget, seed->pages);
    if (segment.pages.size() > left || (segment.seeds.empty() && !pay(*seed, segment))) {
        miss(*seed, segment);
        return false;
    }
    segment.seeds.push_back(number);
    seed->segments.insert(segment.id);
    seed->pages += segment.pages.size();
    return true;
}

bool Seeds::end(Seed &seed, std::uint64_t now) {
    seed.used_at = now;
    seed.open = false;
    seed.token = {};
    if (!seed.segments.empty())
        return true;
    forget(seed);
    return false;
}

void Seeds::end_of_process(std::uint64_t process, std::uint64_t now) {
    for (auto next = seeds_.begin(); next != seeds_.end();) {
        Seed &seed = (next++)->second;
        if (seed.open && seed.process == process)
            (void)end(seed, now);
    }
}

// Takes a segment from a seed. The next one of those that keep it pays for it, or loses it.
void Seeds::let_go(Segment &segment, SeedNumber number) {
    const bool paid = segment.seeds.front() == number;
    std::erase(segment.seeds, number);
    if (!paid)
        return;
    ledger_.take(segment.owner, &Account::kept, segment.pages.size());
    while (!segment.seeds.empty() && !pay(seeds_.at(segment.seeds.front()), segment)) {
        Seed &poor = seeds_.at(segment.seeds.front());
        poor.segments.erase(segment.id);
        poor.pages -= segment.pages.size();
        miss(poor, segment);
        segment.seeds.erase(segment.seeds.begin());
    }
}

void Seeds::forget(Seed &seed) {
    ledger_.take(owner(seed), &Account::seeds, 1);
    Domain &domain = *seed.domain;
    --domain.seeds;
    seeds_.erase(SeedNumber{seed.number});
    catalog_.leave(domain);
}

std::uint64_t Seeds::drop(Seed &seed) {
    const std::uint64_t pages = seed.pages;
    for (const SegmentId id : seed.segments) {
        Segment &segment = *catalog_.find(id);
        let_go(segment, seed.number);
        if (!segment.kept())
            release_(segment);
    }
    forget(seed);
    // Others may have lost all that they had, since there was no room for it.
    for (auto next = seeds_.begin(); next != seeds_.end();)
        if (Seed &other = (next++)->second; !other.open && other.segments.empty())
            forget(other);
    return pages;
}

std::uint64_t Seeds::used(const Seed &seed) const {
    std::uint64_t pages = 0;
    for (const SegmentId id : seed.segments)
        if (const Segment &segment = *catalog_.find(id); segment.users != 0)
            pages += segment.pages.size();
    return pages;
}

std::uint64_t Seeds::last_use(const Seed &seed, std::uint64_t now) const {
    std::uint64_t last = seed.used_at;
    for (const SegmentId id : seed.segments) {
        const Segment &segment = *catalog_.find(id);
        last = std::max(last, segment.users != 0 ? now : segment.unused_since);
    }
    return last;
}

std::uint64_t Seeds::expire(std::uint64_t now) {
    std::uint64_t next = 0;
    std::vector<SeedNumber> over;
    for (auto &[number, seed] : seeds_) {
        if (seed.expire_ms == 0 || seed.open)
            continue;
        if (seed.used_at + seed.expire_ms <= now)
            seed.used_at = last_use(seed, now);
        const std::uint64_t due = seed.used_at + seed.expire_ms;
        if (due <= now)
            over.push_back(number);
        else
            next = next == 0 ? due : std::min(next, due);
    }
    for (const SeedNumber number : over)
        if (Seed *const seed = find(number)) // the end of one may have ended it
            (void)drop(*seed);
    return next;
}

bool Seeds::consistent(Ledger &sums) const {
    std::uint64_t links = 0;
    for (const auto &[number, seed] : seeds_) {
        sums.add(owner(seed), &Account::seeds, 1);
        std::uint64_t pages = 0;
        for (const SegmentId id : seed.segments) {
            const Segment *const segment = catalog_.find(id);
            if (segment == nullptr || segment->domain != seed.domain ||
                std::count(segment->seeds.begin(), segment->seeds.end(), number) != 1)
                return false;
            pages += segment->pages.size();
        }
        if (pages != seed.pages || seed.pages > seed.budget ||
            (seed.segments.empty() && !seed.open))
            return false;
        links += seed.segments.size();
    }
    for (const auto &[id, segment] : catalog_.segments()) {
        links -= segment->seeds.size();
        if (segment->seeds.empty())
            continue;
        const auto first = seeds_.find(segment->seeds.front());
        if (first == seeds_.end() || segment->owner.process != owner(first->second).process)
            return false;
        sums.add(segment->owner, &Account::kept, segment->pages.size());
    }
    return links == 0;
}

} // namespace upm::upmd
