// SPDX-License-Identifier: MIT
#include "tools/upmd/backlog.hpp"

#include "libupm/store/segment.hpp"

#include <algorithm>

namespace upm::upmd {

namespace {

// Less is not worth a segment of its own.
constexpr std::uint32_t kLeastPages = 16;

std::uint32_t huge_pages() {
    return static_cast<std::uint32_t>(kHugePage / page_size());
}

} // namespace

// Returns true if another process that lives has asked for it; else this one is remembered.
bool Backlog::wanted(const Domain &domain, const Owner &owner, std::uint64_t likeness) {
    const Key key{domain.number, likeness};
    if (const auto first = asked_.find(key); first != asked_.end())
        return first->second != owner.process;
    std::deque<std::pair<Key, uid_t>> &asked = processes_[owner.process].asked;
    if (asked.size() >= limits_.client_wanted) {
        asked_.erase(asked.front().first);
        ledger_.take({.uid = asked.front().second, .process = owner.process}, &Account::wanted, 1);
        asked.pop_front();
    }
    if (!ledger_.may_want(owner))
        return true;
    ledger_.add(owner, &Account::wanted, 1);
    asked.emplace_back(key, owner.uid);
    asked_.emplace(key, owner.process);
    return false;
}

bool Backlog::may_begin(const Domain &domain, const Owner &owner, std::uint64_t likeness) const {
    std::uint32_t mine = 0;
    for (const auto &[number, order] : orders_) {
        mine += order.owner.uid == owner.uid ? 1 : 0;
        if (order.domain == &domain && order.request.likeness == likeness && !order.over &&
            order.owner.process == owner.process)
            return false;
    }
    return mine < limits_.user_late && orders_.size() < limits_.late;
}

void Backlog::add(Domain &domain, const Owner &owner, const store::LateRequest &request,
                  Descriptor file, std::uint64_t now) {
    const bool others = (request.flags & store::kOthersWant) != 0;
    if ((!others && !wanted(domain, owner, request.likeness)) ||
        !may_begin(domain, owner, request.likeness)) {
        hooks_.close(owner.uid, std::move(file));
        return;
    }
    Order &order = orders_[++last_];
    order.number = last_;
    order.domain = &domain;
    order.owner = owner;
    order.request = request;
    order.file = std::move(file);
    order.until = now + limits_.late_ms;
    ++domain.jobs;
    step(order, now);
}

// Begins with the next window. They end where huge pages may begin.
void Backlog::step(Order &order, std::uint64_t now) {
    const std::uint64_t left = order.request.pages - order.next;
    const std::uint64_t over = (order.request.skew + order.next) % huge_pages();
    order.window = static_cast<std::uint32_t>(
        std::min<std::uint64_t>(left, over != 0 ? huge_pages() - over : store::kMaxPages));
    if (order.window < kLeastPages && order.window < left) {
        order.next += order.window;
        step(order, now);
    } else if (order.window < kLeastPages || order.over || order.until <= now) {
        end(order);
    } else {
        give_work(order, true);
    }
}

void Backlog::give_work(Order &order, bool look) {
    const bool aligned = (order.request.skew + order.next) % huge_pages() == 0;
    hooks_.work(order.owner.uid, {.number = order.number,
                                  .file = std::move(order.file),
                                  .offset = order.request.offset + order.next * page_size(),
                                  .pages = order.window,
                                  .aligned = aligned,
                                  .seed = order.domain->seed,
                                  .look = look,
                                  .keep = true});
}

void Backlog::end(Order &order) {
    hooks_.close(order.owner.uid, std::move(order.file));
    Domain &domain = *order.domain;
    orders_.erase(std::uint64_t{order.number});
    --domain.jobs;
    catalog_.leave(domain);
}

void Backlog::done(Made result, std::uint64_t now) {
    const auto found = orders_.find(result.number);
    if (found == orders_.end())
        return;
    Order &order = found->second;
    order.file = std::move(result.file);
    const bool look = order.reserved == 0;
    if (!look)
        take_made(order, result);
    if (result.error != 0 || order.over)
        end(order);
    else if (look)
        looked(order, result.sample, now);
    else
        step(order, now);
}

void Backlog::looked(Order &order, const store::Sample &sample, std::uint64_t now) {
    if (sample.hashes().empty()) { // zeros, which no load asks for
        order.next += order.window;
        step(order, now);
    } else if (const std::uint64_t known = keep_known(order, sample); known != 0) {
        order.next += known;
        step(order, now);
    } else if (hooks_.room(order.owner) < order.window) {
        end(order);
    } else {
        order.reserved = order.window;
        ledger_.add(order.owner, &Account::pages, order.reserved);
        alone_.add(order.owner, order.reserved);
        give_work(order, false);
    }
}

void Backlog::take_made(Order &order, Made &result) {
    ledger_.take(order.owner, &Account::pages, order.reserved);
    const bool useless = result.error != 0 || order.over || keep_all_known(order, result.hashes);
    if (useless) {
        alone_.credit(order.owner, order.reserved);
    } else {
        ledger_.add(order.owner, &Account::pages, result.hashes.size());
        ledger_.add(order.owner, &Account::segments, 1);
        made_ += result.hashes.size();
        Segment &segment = catalog_.add(*order.domain, order.owner, result.hashes,
                                        std::move(result.fd), result.inode);
        catalog_.enter(segment);
        segment.made = true;
        segment.alone = true;
        keep(order.owner, segment);
    }
    order.reserved = 0;
    order.next += order.window;
}

// Keeps the segment which a load of the window would find. Returns how many pages of the
// window lie in it.
std::uint64_t Backlog::keep_known(const Order &order, const store::Sample &sample) {
    const std::span<const std::uint64_t> hashes = sample.hashes();
    std::vector<store::Place> places(hashes.size());
    Ref ref;
    for (std::size_t i = 0; i < hashes.size(); ++i) {
        const bool again = i != 0 && hashes[i] == hashes[i - 1];
        ref = again ? catalog_.after(ref) : Catalog::find(*order.domain, hashes[i]);
        places[i] = {.segment = ref.segment, .page = ref.page};
    }
    const store::Sample::Candidate best = sample.choose(places, store::kUnknown);
    Segment *const segment = best.votes != 0 ? catalog_.find(best.first.segment) : nullptr;
    if (segment == nullptr || best.first.page >= segment->pages.size() ||
        !sample.convinces(best, static_cast<std::uint32_t>(segment->pages.size())))
        return 0;
    keep(order.owner, *segment);
    return std::min<std::uint64_t>(order.window, segment->pages.size() - best.first.page);
}

// While it was made, another one may have come to be known. Returns true if nearly all of its
// pages have.
bool Backlog::keep_all_known(const Order &order, const std::vector<std::uint64_t> &hashes) {
    std::unordered_set<SegmentId> segments;
    std::size_t known = 0;
    for (const std::uint64_t hash : hashes) {
        const Ref ref = Catalog::find(*order.domain, hash);
        known += ref.segment != 0 ? 1 : 0;
        if (ref.segment != 0)
            segments.insert(ref.segment);
    }
    if (known * 16 < hashes.size() * 15)
        return false;
    for (const SegmentId segment : segments)
        keep(order.owner, *catalog_.find(segment));
    return true;
}

// What another user pays for is not kept at its expense.
void Backlog::keep(const Owner &owner, Segment &segment) {
    if (segment.owner.uid == owner.uid && processes_[owner.process].kept.insert(segment.id).second)
        segment.waits.push_back(owner.process);
}

bool Backlog::expects(const Domain &domain, const Owner &owner) const {
    return std::any_of(orders_.begin(), orders_.end(), [&](const auto &each) {
        return each.second.domain == &domain && !each.second.over &&
               each.second.owner.process == owner.process;
    });
}

void Backlog::forget(const Segment &segment) {
    for (const std::uint64_t process : segment.waits)
        processes_.at(process).kept.erase(segment.id);
}

void Backlog::end_of_process(std::uint64_t process, std::uint64_t now) {
    for (auto &[number, order] : orders_) // a thread has their files
        order.over = order.over || order.owner.process == process;
    const auto found = processes_.find(process);
    if (found == processes_.end())
        return;
    const Process its = std::move(found->second);
    processes_.erase(found);
    for (const auto &[key, uid] : its.asked) {
        asked_.erase(key);
        ledger_.take({.uid = uid, .process = process}, &Account::wanted, 1);
    }
    for (const SegmentId id : its.kept) {
        Segment &segment = *catalog_.find(id);
        std::erase(segment.waits, process);
        hooks_.release(segment, now);
    }
}

bool Backlog::consistent(Ledger &sums) const {
    for (const auto &[number, order] : orders_)
        sums.add(order.owner, &Account::pages, order.reserved);
    std::size_t links = 0;
    std::size_t asked = 0;
    for (const auto &[process, its] : processes_) {
        if (ledger_.process(process).clients == 0)
            return false;
        for (const auto &[key, uid] : its.asked) {
            sums.add({.uid = uid, .process = process}, &Account::wanted, 1);
            const auto first = asked_.find(key);
            if (first == asked_.end() || first->second != process)
                return false;
        }
        asked += its.asked.size();
        links += its.kept.size();
        for (const SegmentId id : its.kept) {
            const Segment *const segment = catalog_.find(id);
            if (segment == nullptr ||
                std::count(segment->waits.begin(), segment->waits.end(), process) != 1)
                return false;
        }
    }
    for (const auto &[id, segment] : catalog_.segments())
        links -= segment->waits.size();
    return links == 0 && asked == asked_.size() && orders_.size() <= limits_.late;
}

} // namespace upm::upmd
