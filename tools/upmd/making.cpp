// SPDX-License-Identifier: MIT
//
// Requests of clients who load a file: the broker has a segment of a part of it made, in
// a thread (maker.hpp), and hands it to all who asked for the same meanwhile. What comes too late
// for a client is made for those that follow (backlog.hpp).
#include "libupm/base/system.hpp"
#include "libupm/store/segment.hpp"
#include "tools/upmd/broker.hpp"
#include "tools/upmd/client.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <utility>

namespace upm::upmd {

// A descriptor of a stranger is closed in a thread, whatever comes of the request.
bool Broker::make(Client &client, std::span<const std::byte> packet, Brought brought) {
    store::MakeRequest request{};
    const bool good = client.version >= 3 && store::take(packet, request) && packet.empty() &&
                      request.pages != 0 && request.pages <= store::kMaxPages &&
                      (request.flags & ~std::uint32_t{store::kAligned}) == 0;
    const auto discard = [&] { close_in_thread(client.owner.uid, std::move(brought.fd)); };
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
        count_refusal(client, error, request.pages);
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
    const bool fits = request.pages <= alone_room(client.owner) && request.pages <= room(client);
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
    alone_.add(job->owner, request.pages);
    make_(client.owner.uid,
          {.number = job->number,
           .file = std::move(file),
           .offset = request.offset,
           .pages = request.pages,
           .aligned = (request.flags & store::kAligned) != 0,
           .seed = job->domain->seed},
          false);
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
    const bool wanted = !job->waiting.empty() || backlog_.expects(domain, job->owner);
    if (result.error != 0 || !wanted)
        alone_.credit(job->owner, job->request.pages);
    if (result.error == 0 && wanted) {
        ledger_.add(job->owner, &Account::pages, result.hashes.size());
        ledger_.add(job->owner, &Account::segments, 1);
        totals_.made += result.hashes.size();
        segment =
            &catalog_.add(domain, job->owner, result.hashes, std::move(result.fd), result.inode);
        segment->made = true;
        segment->alone = true;
        if (job->waiting.empty())
            backlog_.adopt(*segment);
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
        if (alone_.of(segment->owner) > limits_.alone_pages / 4)
            usage_.look_now(client.id, now);
        store::MakeReply answer{};
        answer.segment = known;
        answer.pages = static_cast<std::uint32_t>(segment->pages.size());
        reply(client, waiting.header, answer, segment->fd.get());
    }
    if (segment != nullptr)
        catalog_.enter(*segment); // those who wait have their answers by now
    if (segment != nullptr && segment->users == 0 && !segment->kept())
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
        alone_.credit(maker, segment.pages.size());
}

std::uint64_t Broker::alone_room(const Owner &owner) const {
    return limits_.alone_pages - std::min(limits_.alone_pages, alone_.of(owner));
}

// Its owner maps it. What is kept whoever maps it is of use once somebody else does.
void Broker::credit(Segment &segment) {
    if (segment.waits.empty() && std::exchange(segment.alone, false))
        alone_.credit(segment.owner, segment.pages.size());
}

// A load of the client was late with a part of a file.
bool Broker::late(Client &client, std::span<const std::byte> packet, Brought brought,
                  std::uint64_t now) {
    store::LateRequest request{};
    const bool good = client.version >= 6 && store::take(packet, request) && packet.empty() &&
                      request.pages != 0 && request.pages <= store::kMaxLatePages &&
                      request.offset <= INT64_MAX - store::kMaxLatePages * page_size() &&
                      request.skew < kHugePage / page_size() &&
                      (request.flags & ~std::uint32_t{store::kOthersWant}) == 0;
    if (good && brought.fd && make_ && !waits_for_want(client))
        backlog_.add(*client.domain, client.owner, request, std::move(brought.fd), now);
    else
        close_in_thread(client.owner.uid, std::move(brought.fd));
    return good;
}

void Broker::close_in_thread(uid_t uid, Descriptor file) {
    if (file && make_)
        make_(uid, {.file = std::move(file)}, false);
}

Backlog::Hooks Broker::backlog_hooks() {
    return {
        .work = [this](uid_t uid, MakeTask task) { make_(uid, std::move(task), true); },
        .close = [this](uid_t uid, Descriptor file) { close_in_thread(uid, std::move(file)); },
        .room =
            [this](const Owner &owner) {
                return plenty_ ? 0 : std::min(ledger_.room(owner), alone_room(owner));
            },
        .release = [this](Segment &segment, std::uint64_t now) { usage_.let_go(segment, now); }};
}

} // namespace upm::upmd
