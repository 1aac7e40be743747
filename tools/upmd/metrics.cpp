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
    std::uint64_t saved_by_load = 0; // in segments that were made of files
    std::uint64_t kept = 0;          // by seeds
    std::uint64_t bytes = 0;         // of bookkeeping
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
        sums.saved_by_load += segment->made ? segment->saved() : 0;
        sums.kept += segment->seeds.empty() ? 0 : segment->pages.size();
        sums.bytes += sizeof(Segment) + segment->pages.size() * kPageBytes;
    }
    return sums;
}

// The text format of Prometheus, exposition format 0.0.4: a metric's samples stand together,
// behind its HELP and TYPE. Sizes are in bytes.
void add_head(std::string &text, std::string_view name, std::string_view type,
              std::string_view help) {
    text += fmt::format("# HELP upmd_{0} {1}\n# TYPE upmd_{0} {2}\n", name, help, type);
}

void add_metric(std::string &text, std::string_view name, std::string_view type,
                std::string_view help, std::uint64_t value) {
    add_head(text, name, type, help);
    text += fmt::format("upmd_{} {}\n", name, value);
}

struct DomainMetric {
    const char *name;
    const char *help;
    std::uint64_t (*value)(const Domain &domain, const Sums &sums);
};

std::uint64_t bytes_of(std::uint64_t pages) {
    return pages * page_size();
}

constexpr DomainMetric kDomainMetrics[] = {
    {"clients", "Connections of processes in the domain.",
     [](const Domain &domain, const Sums &) -> std::uint64_t { return domain.members.size(); }},
    {"waiting", "Requests that wait for what another process reads or publishes.",
     [](const Domain &domain, const Sums &) -> std::uint64_t { return domain.parked.size(); }},
    {"segments", "Segments of content.",
     [](const Domain &domain, const Sums &) -> std::uint64_t { return domain.segments; }},
    {"content_bytes", "Size of the content that is kept.",
     [](const Domain &domain, const Sums &) { return bytes_of(domain.pages); }},
    {"unused_bytes", "Size of the segments that no process maps.",
     [](const Domain &, const Sums &sums) { return bytes_of(sums.unused); }},
    {"mapped_bytes", "Size of what processes map of the content, each counted.",
     [](const Domain &, const Sums &sums) { return bytes_of(sums.mapped); }},
    {"saved_bytes", "Size of what is mapped beyond the first time: memory that is not needed.",
     [](const Domain &, const Sums &sums) { return bytes_of(sums.saved); }},
    {"saved_by_load_bytes", "What is saved in content that came from files that were loaded.",
     [](const Domain &, const Sums &sums) { return bytes_of(sums.saved_by_load); }},
    {"saved_by_merge_bytes", "What is saved in content that came from memory that was merged.",
     [](const Domain &, const Sums &sums) { return bytes_of(sums.saved - sums.saved_by_load); }},
    {"seeded_bytes", "Size of the content that seeds keep, mapped or not.",
     [](const Domain &, const Sums &sums) { return bytes_of(sums.kept); }},
    {"trimmed_bytes", "Size of what the hook of processes gave back by trimming, in all.",
     [](const Domain &domain, const Sums &) { return bytes_of(domain.trimmed); }},
};

void add_domains(std::string &text, const Catalog &catalog,
                 const std::vector<const Domain *> &domains) {
    std::vector<Sums> sums;
    sums.reserve(domains.size());
    for (const Domain *const domain : domains)
        sums.push_back(sums_of(catalog, *domain));
    for (const DomainMetric &metric : kDomainMetrics) {
        if (domains.empty())
            break;
        add_head(text, fmt::format("domain_{}", metric.name), "gauge", metric.help);
        for (std::size_t i = 0; i < domains.size(); ++i)
            text += fmt::format("upmd_domain_{}{{domain=\"{}\"}} {}\n", metric.name,
                                domains[i]->label, metric.value(*domains[i], sums[i]));
    }
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
    const auto gauge = [&](std::string_view name, std::string_view help, std::uint64_t value) {
        add_metric(text, name, "gauge", help, value);
    };
    const auto counter = [&](std::string_view name, std::string_view help, std::uint64_t value) {
        add_metric(text, name, "counter", help, value);
    };
    gauge("clients", "Connections of processes.", clients_.size());
    gauge("segments", "Segments of content.", catalog_.segments().size());
    gauge("content_bytes", "Size of the content that is kept or reserved.",
          bytes_of(ledger_.all().pages));
    gauge("max_bytes", "Size of the content that all users may have together.",
          bytes_of(limits_.max_pages));
    gauge("quota_bytes", "Size of the content that one user may have.",
          bytes_of(limits_.quota_pages));
    gauge("sharing", "1 if new content is taken; 0 while free memory is plenty.", plenty_ ? 0 : 1);
    gauge("late_files", "Files of which content is still to be made in the background.",
          backlog_.files());
    gauge("seeds", "Seeds, which keep content that nobody maps.", seeds_.all().size());
    gauge("seeded_bytes", "Size of the content that seeds keep.", bytes_of(ledger_.all().kept));
    gauge("max_seeded_bytes", "Size of the content that seeds of all users may keep together.",
          bytes_of(limits_.all_seed_pages));
    counter("lookup_hits_total", "Pages that were looked up and known.", totals_.hits);
    counter("lookup_misses_total", "Pages that were looked up and not known.", totals_.misses);
    counter("lookup_waits_total", "Look-ups that waited for another process.", totals_.waits);
    counter("published_bytes_total", "Size of the content that came.", bytes_of(totals_.published));
    counter("made_bytes_total", "Size of the content that was read from files for loads.",
            bytes_of(totals_.made));
    counter("made_late_bytes_total",
            "Size of the content that was read from files for which loads were too late.",
            bytes_of(backlog_.made()));
    counter("refused_total", "Requests that were refused: a limit, or nonsense.", totals_.refused);
    counter("refused_connections_total", "Connections that were refused: as many as there may be.",
            totals_.connections_refused);
    counter("put_off_total", "Requests to share what is new, while free memory was plenty.",
            totals_.put_off);
    counter("bad_packets_total", "Connections that were ended for a wrong packet.", totals_.bad);
    counter("reservations_lost_total", "Reservations that nobody kept in time.",
            totals_.reservations_lost);
    counter("dropped_segments_total", "Segments that went.", totals_.dropped);
    std::vector<const Domain *> domains;
    domains.reserve(catalog_.domains().size());
    for (const auto &[name, domain] : catalog_.domains())
        domains.push_back(domain.get());
    add_domains(text, catalog_, domains);
    return text;
}

std::string Broker::metrics(ClientId id) const {
    const Client &client = *clients_.at(id);
    if (client.peer.sees_all)
        return metrics();
    std::string text;
    add_metric(text, "quota_bytes", "gauge", "Size of the content that one user may have.",
               bytes_of(limits_.quota_pages));
    if (client.domain != nullptr)
        add_domains(text, catalog_, {client.domain});
    return text;
}

bool Broker::consistent() const {
    Ledger sums(limits_);
    for (const auto &[id, client] : clients_) {
        sums.add(client->owner, &Account::clients, 1);
        sums.add(client->owner, &Account::pages, client->reserved.size());
        sums.add(client->owner, &Account::names, client->names.size());
        sums.add(client->owner, &Account::parked, client->parked != nullptr ? 1 : 0);
        sums.add(client->owner, &Account::wanted, client->wanted.size());
        for (const std::uint64_t hash : client->wanted) {
            const auto first = client->domain->wanted.find(hash);
            if (first == client->domain->wanted.end() || first->second != id)
                return false;
        }
        for (const std::uint64_t hash : client->reserved) {
            const auto holder = client->domain->reserved.find(hash);
            if (holder == client->domain->reserved.end() || holder->second != id)
                return false;
        }
    }
    for (const auto &[number, job] : jobs_) {
        sums.add(job->owner, &Account::pages, job->request.pages);
        for (const Job::Waiting &waiting : job->waiting) {
            const Client &client = *clients_.at(waiting.client);
            if (client.job != number)
                return false;
            sums.add(client.owner, &Account::parked, 1);
        }
    }
    for (const auto &[id, segment] : catalog_.segments()) {
        sums.add(segment->owner, &Account::pages, segment->pages.size());
        sums.add(segment->owner, &Account::segments, 1);
    }
    return alone_.consistent(ledger_) && backlog_.consistent(sums) && seeds_.consistent(sums) &&
           sums == ledger_ && ledger_.all().kept <= limits_.all_seed_pages &&
           ledger_.all().pages <= limits_.max_pages &&
           ledger_.all().segments <= limits_.max_segments && catalog_.consistent() &&
           usage_.consistent();
}

} // namespace upm::upmd
