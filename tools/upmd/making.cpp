// SPDX-License-Identifier: MIT
//
// Requests of clients who load a file: the broker has a segment of a part of it made, in
// a thread (maker.hpp), and hands it to all who asked for the same meanwhile.
#include "tools/upmd/broker.hpp"
#include "tools/upmd/client.hpp"

#include <algorithm>
#include <cerrno>
#include <utility>

namespace upm::upmd {

// A descriptor of a stranger is closed in a thread, whatever comes of the request.
bool Broker::make(Client &client, std::span<const std::byte> packet, Brought brought) {
    store::MakeRequest request{};
    const bool good = client.version >= 3 && store::take(packet, request) && packet.empty() &&
                      request.pages != 0 && request.pages <= store::kMaxPages &&
                      (request.flags & ~std::uint32_t{store::kAligned}) == 0;
    const auto discard = [&] {
        if (brought.fd && make_)
            make_(client.owner.uid, {.file = std::move(brought.fd)});
    };
    if (!good) {
        discard();
        return false;
    }
    const auto same = std::find_if(jobs_.begin(), jobs_.end(), [&](const auto &entry) {
        const Job &job = *entry.second;
        return job.domain == client.domain && job.request.likeness == request.likeness &&
               job.request.pages == request.pages && job.request.flags == request.flags;
    });
    const int error =
        same != jobs_.end() && ledger_.may_wait(client.owner) ? 0 : admit(client, brought, request);
    if (error != 0) {
        count_refusal(client);
        discard();
        fail(client, request.header, error);
        return true;
    }
    Job &job =
        same != jobs_.end() ? *same->second : begin_job(client, request, std::move(brought.fd));
    discard();
    job.waiting.push_back({.client = client.id, .header = request.header});
    client.job = job.number;
    ledger_.add(client.owner, &Account::parked, 1);
    return true;
}

// Says if a segment may be made: 0 or -errno.
int Broker::admit(const Client &client, const Brought &brought,
                  const store::MakeRequest &request) const {
    if (!make_)
        return -EOPNOTSUPP;
    if (!brought.fd)
        return brought.error != 0 ? -brought.error : -EMFILE;
    if (!ledger_.may_wait(client.owner))
        return -EAGAIN;
    const bool fits = made_alone(client.owner) + request.pages <= limits_.alone_pages &&
                      request.pages <= room(client);
    if (fits)
        return 0;
    // Told of a quota, a client asks more and more seldom.
    return waits_for_want(client) ? -EAGAIN : -EDQUOT;
}

Broker::Job &Broker::begin_job(const Client &client, const store::MakeRequest &request,
                               Descriptor file) {
    auto job = std::make_unique<Job>();
    job->number = ++last_job_;
    job->domain = client.domain;
    job->owner = client.owner;
    job->request = request;
    ++job->domain->jobs;
    ledger_.add(job->owner, &Account::pages, request.pages);
    made_alone_[job->owner.process] += request.pages;
    make_(client.owner.uid, {.number = job->number,
                             .file = std::move(file),
                             .offset = request.offset,
                             .pages = request.pages,
                             .aligned = (request.flags & store::kAligned) != 0,
                             .seed = job->domain->seed});
    return *jobs_.emplace(last_job_, std::move(job)).first->second;
}

void Broker::made(Made result, std::uint64_t now) {
    const auto found = jobs_.find(result.number);
    if (found == jobs_.end())
        return; // a file that was only to be closed
    const std::unique_ptr<Job> job = std::move(found->second);
    jobs_.erase(found);
    Domain &domain = *job->domain;
    --domain.jobs;
    ledger_.take(job->owner, &Account::pages, job->request.pages);
    Segment *segment = nullptr;
    if (result.error != 0 || job->waiting.empty())
        credit(job->owner, job->request.pages);
    if (result.error == 0 && !job->waiting.empty()) {
        ledger_.add(job->owner, &Account::pages, result.hashes.size());
        ledger_.add(job->owner, &Account::segments, 1);
        totals_.made += result.hashes.size();
        segment =
            &catalog_.add(domain, job->owner, result.hashes, std::move(result.fd), result.inode);
        segment->made = true;
        segment->alone = true;
    }
    for (const Job::Waiting &waiting : job->waiting) {
        Client &client = *clients_.at(waiting.client);
        client.job = 0;
        ledger_.take(client.owner, &Account::parked, 1);
        const std::uint32_t known = segment != nullptr ? name(client, segment->id) : 0;
        if (known == store::kUnknown) {
            fail(client, waiting.header, segment != nullptr ? -EDQUOT : result.error);
            continue;
        }
        hand_out(client, *segment, true, now);
        if (made_alone(segment->owner) > limits_.alone_pages / 4)
            usage_.look_now(client.id, now);
        store::MakeReply answer{};
        answer.segment = known;
        answer.pages = static_cast<std::uint32_t>(segment->pages.size());
        reply(client, waiting.header, answer, segment->fd.get());
    }
    if (segment != nullptr && segment->users == 0)
        drop(*segment);
    catalog_.leave(domain);
}

// Counts a client as a user of a segment, and credits whoever had it made when somebody
// else comes to use it, or a seed keeps it.
void Broker::hand_out(const Client &client, Segment &segment, bool published, std::uint64_t now) {
    usage_.use(client.id, segment, published, now);
    const Owner maker = segment.owner; // a seed is another one
    const bool kept = client.seed != 0 && seeds_.keep(client.seed, segment, now);
    if ((segment.shared || kept) && std::exchange(segment.alone, false))
        credit(maker, segment.pages.size());
}

// The owner's process may have left.
std::uint64_t Broker::made_alone(const Owner &owner) const {
    const auto alone = made_alone_.find(owner.process);
    return alone != made_alone_.end() ? alone->second : 0;
}

void Broker::credit(Segment &segment) {
    if (std::exchange(segment.alone, false))
        credit(segment.owner, segment.pages.size());
}

void Broker::credit(const Owner &owner, std::uint64_t pages) {
    const auto alone = made_alone_.find(owner.process);
    if (alone != made_alone_.end())
        alone->second -= std::min(alone->second, pages);
}

} // namespace upm::upmd
