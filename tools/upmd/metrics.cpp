// SPDX-License-Identifier: MIT
//
// What the broker tells of itself, and what tests ask of it.
#include "tools/upmd/broker.hpp"
#include "tools/upmd/client.hpp"

#include <algorithm>
#include <fmt/format.h>

namespace upm::upmd {

namespace {

// One definition of what is saved, for every place that tells it: the places that map a
// segment's pages beyond the first one.
struct Sums {
    std::uint64_t mapped = 0; // pages
    std::uint64_t used = 0;
    std::uint64_t unused = 0;
    std::uint64_t saved = 0;
    std::uint64_t bytes = 0; // of bookkeeping
};

Sums sums_of(const Catalog &catalog, const Domain &domain) {
    // A page with its links, and a node of the index; the page cache's share is not counted.
    constexpr std::uint64_t kPageBytes = sizeof(SegmentPage) + 48;
    Sums sums;
    for (const auto &[id, segment] : catalog.segments()) {
        if (segment->domain != &domain)
            continue;
        sums.mapped += segment->mapped;
        (segment->users != 0 ? sums.used : sums.unused) += segment->pages.size();
        sums.saved += segment->saved();
        sums.bytes += sizeof(Segment) + segment->pages.size() * kPageBytes;
    }
    return sums;
}

void add_line(std::string &text, std::string_view name, std::uint64_t value) {
    text += fmt::format("upmd_{} {}\n", name, value);
}

void add_domain(std::string &text, const Catalog &catalog, const Domain &domain) {
    const Sums sums = sums_of(catalog, domain);
    const std::pair<const char *, std::uint64_t> values[] = {
        {"clients", domain.members.size()}, {"waiting", domain.parked.size()},
        {"segments", domain.segments},      {"pages", domain.pages},
        {"unused_pages", sums.unused},      {"mapped_pages", sums.mapped},
        {"saved_pages", sums.saved}};
    for (const auto &[what, value] : values)
        add_line(text, fmt::format("domain_{}{{domain=\"{}\"}}", what, domain.label), value);
}

} // namespace

void Broker::stats(const Client &client, const store::Header &header) const {
    const Sums sums = sums_of(catalog_, *client.domain);
    store::StatsReply answer{};
    answer.pages_shared = sums.used;
    answer.pages_sharing = sums.saved;
    answer.pages_unused = sums.unused;
    answer.max_pages = limits_.quota_pages;
    answer.metadata_bytes = sums.bytes;
    reply(client, header, answer);
}

void Broker::describe(const Client &client, const store::Header &header) const {
    const std::string text = metrics(client.id).substr(0, store::kMaxText);
    store::ReplyHeader head{};
    std::vector<std::byte> answer(sizeof(head) + text.size());
    std::memcpy(answer.data() + sizeof(head), text.data(), text.size());
    send_whole(client, header, head, answer, -1);
}

std::string Broker::metrics() const {
    std::string text;
    add_line(text, "clients", clients_.size());
    add_line(text, "segments", catalog_.segments().size());
    add_line(text, "pages", ledger_.all().pages);
    add_line(text, "max_pages", limits_.max_pages);
    add_line(text, "quota_pages", limits_.quota_pages);
    add_line(text, "lookup_hits_total", totals_.hits);
    add_line(text, "lookup_misses_total", totals_.misses);
    add_line(text, "lookup_waits_total", totals_.waits);
    add_line(text, "published_pages_total", totals_.published);
    add_line(text, "refused_total", totals_.refused);
    add_line(text, "bad_packets_total", totals_.bad);
    add_line(text, "reservations_lost_total", totals_.reservations_lost);
    add_line(text, "dropped_segments_total", totals_.dropped);
    for (const auto &[name, domain] : catalog_.domains())
        add_domain(text, catalog_, *domain);
    return text;
}

std::string Broker::metrics(ClientId id) const {
    const Client &client = *clients_.at(id);
    if (client.peer.sees_all)
        return metrics();
    std::string text;
    add_line(text, "quota_pages", limits_.quota_pages);
    if (client.domain != nullptr)
        add_domain(text, catalog_, *client.domain);
    return text;
}

bool Broker::consistent() const {
    Ledger sums(limits_);
    for (const auto &[id, client] : clients_) {
        sums.add(client->owner, &Account::clients, 1);
        sums.add(client->owner, &Account::pages, client->reserved.size());
        sums.add(client->owner, &Account::names, client->names.size());
        sums.add(client->owner, &Account::parked, client->parked != nullptr ? 1 : 0);
        for (const std::uint64_t hash : client->reserved) {
            const auto holder = client->domain->reserved.find(hash);
            if (holder == client->domain->reserved.end() || holder->second != id)
                return false;
        }
    }
    for (const auto &[id, segment] : catalog_.segments()) {
        sums.add(segment->owner, &Account::pages, segment->pages.size());
        sums.add(segment->owner, &Account::segments, 1);
    }
    const bool all_here =
        std::all_of(made_alone_.begin(), made_alone_.end(),
                    [&](const auto &alone) { return ledger_.process(alone.first).clients != 0; });
    return all_here && sums == ledger_ && ledger_.all().pages <= limits_.max_pages &&
           ledger_.all().segments <= limits_.max_segments && catalog_.consistent() &&
           usage_.consistent();
}

} // namespace upm::upmd
