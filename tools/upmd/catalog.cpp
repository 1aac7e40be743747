// SPDX-License-Identifier: MIT
#include "tools/upmd/catalog.hpp"

#include <algorithm>

namespace upm::upmd {

Domain &Catalog::domain(const std::string &name, bool &made) {
    std::unique_ptr<Domain> &domain = domains_[name];
    made = domain == nullptr;
    if (made) {
        domain = std::make_unique<Domain>();
        domain->number = ++last_domain_;
        domain->name = name;
        domain->index = HashTable<Ref>(0, KeyedHash{key_});
        domain->reserved = HashTable<ClientId>(0, KeyedHash{key_});
        domain->wanted = HashTable<ClientId>(0, KeyedHash{key_});
    }
    return *domain;
}

void Catalog::leave(Domain &domain) {
    if (domain.members.empty() && domain.segments == 0 && domain.jobs == 0 && domain.seeds == 0)
        domains_.erase(std::string(domain.name));
}

void Catalog::link(Domain &domain, const Ref &ref) {
    SegmentPage &page = at(ref);
    const auto [first, fresh] = domain.index.emplace(page.hash, ref);
    if (fresh)
        return;
    SegmentPage &told = at(first->second);
    page.before = first->second;
    page.after = told.after;
    if (told.after.segment != 0)
        at(told.after).before = ref;
    told.after = ref;
}

void Catalog::unlink(Domain &domain, const SegmentPage &page) {
    if (page.after.segment != 0)
        at(page.after).before = page.before;
    if (page.before.segment != 0)
        at(page.before).after = page.after;
    else if (page.after.segment != 0)
        domain.index[page.hash] = page.after;
    else
        domain.index.erase(page.hash);
}

Segment &Catalog::add(Domain &domain, const Owner &owner, std::span<const std::uint64_t> hashes,
                      Descriptor fd, std::uint64_t inode) {
    do
        ++last_;
    while (last_ == 0 || segments_.contains(last_));
    auto fresh = std::make_unique<Segment>();
    Segment &segment = *fresh;
    segment.id = last_;
    segment.fd = std::move(fd);
    segment.inode = inode;
    segment.domain = &domain;
    segment.owner = owner;
    segment.pages.resize(hashes.size());
    segments_.emplace(last_, std::move(fresh));
    for (std::uint32_t i = 0; i < hashes.size(); ++i)
        segment.pages[i].hash = hashes[i];
    inodes_[inode] = segment.id;
    ++domain.segments;
    domain.pages += hashes.size();
    return segment;
}

void Catalog::enter(const Segment &segment) {
    for (std::uint32_t i = 0; i < segment.pages.size(); ++i)
        link(*segment.domain, {.segment = segment.id, .page = i});
}

// Pre: it was entered.
void Catalog::remove(Segment &segment) {
    Domain &domain = *segment.domain;
    for (const SegmentPage &page : segment.pages)
        unlink(domain, page);
    --domain.segments;
    domain.pages -= segment.pages.size();
    const auto inode = inodes_.find(segment.inode);
    if (inode != inodes_.end() && inode->second == segment.id)
        inodes_.erase(inode);
    segments_.erase(SegmentId{segment.id});
    leave(domain);
}

Segment *Catalog::find(SegmentId id) const {
    const auto found = segments_.find(id);
    return found != segments_.end() ? found->second.get() : nullptr;
}

Segment *Catalog::by_inode(std::uint64_t inode) const {
    const auto found = inodes_.find(inode);
    return found != inodes_.end() ? find(found->second) : nullptr;
}

Ref Catalog::find(const Domain &domain, std::uint64_t hash) {
    const auto found = domain.index.find(hash);
    return found != domain.index.end() ? found->second : Ref{};
}

bool Catalog::consistent() const {
    std::map<const Domain *, std::uint64_t> listed; // pages that the indexes lead to
    for (const auto &[name, domain] : domains_) {
        if (domain->members.empty() && domain->segments == 0 && domain->jobs == 0 &&
            domain->seeds == 0)
            return false;
        for (const auto &[hash, first] : domain->index) {
            Ref before;
            for (Ref at = first; at.segment != 0;) {
                const Segment *const segment = find(at.segment);
                if (segment == nullptr || segment->domain != domain.get() ||
                    at.page >= segment->pages.size() || segment->pages[at.page].hash != hash ||
                    segment->pages[at.page].before != before)
                    return false;
                ++listed[domain.get()];
                before = at;
                at = segment->pages[at.page].after;
            }
        }
        if (listed[domain.get()] != domain->pages)
            return false;
    }
    std::map<const Domain *, std::pair<std::uint64_t, std::uint64_t>> sums;
    for (const auto &[id, segment] : segments_) {
        ++sums[segment->domain].first;
        sums[segment->domain].second += segment->pages.size();
    }
    return std::all_of(domains_.begin(), domains_.end(), [&](const auto &named) {
        const Domain &domain = *named.second;
        return sums[&domain] == std::pair(domain.segments, domain.pages);
    });
}

} // namespace upm::upmd
