// SPDX-License-Identifier: MIT
//
// What the backend says to its broker about seeds.
#include "libupm/base/system.hpp"
#include "libupm/store/backend.hpp"
#include "libupm/store/domain_file.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sys/mman.h>
#include <upm/upm.hpp>

namespace upm {

namespace {

// Scratch memory of one request: nothing here may take any from the heap.
struct Room {
    std::byte packet[store::kMaxPacket];
    store::SeedEntry entries[store::kMaxSeedsListed];
};

store::SeedAct act_of(SeedCall::Act act) noexcept {
    switch (act) {
    case SeedCall::Act::kBegin:
        return store::SeedAct::kBegin;
    case SeedCall::Act::kEnd:
        return store::SeedAct::kEnd;
    case SeedCall::Act::kDrop:
        return store::SeedAct::kDrop;
    case SeedCall::Act::kList:
        break;
    }
    return store::SeedAct::kList;
}

SeedState state_of(const store::SeedEntry &entry) noexcept {
    SeedState state{};
    state.number = entry.number;
    state.kept = entry.pages * page_size();
    state.used = entry.used * page_size();
    state.budget = entry.budget * page_size();
    state.missed = entry.missed * page_size();
    state.segments = entry.segments;
    state.user = entry.uid;
    state.expire_s = entry.expire_s;
    state.open = entry.open != 0;
    static_assert(sizeof(state.label) == sizeof(entry.label) &&
                  sizeof(state.domain) == sizeof(entry.domain));
    std::memcpy(state.label, entry.label, sizeof(state.label));
    std::memcpy(state.domain, entry.domain, sizeof(state.domain));
    return state;
}

} // namespace

// A broker that is gone is started anew; it has no seed.
int StoreBackend::seed(const SeedCall &call, SeedAnswer &answer,
                       std::span<SeedState> list) noexcept {
    store::DomainKey domain;
    std::size_t slot = 0;
    int ret = find_domain(call.domain_fd, domain);
    if (ret == 0)
        ret = pool_.acquire(path_, domain, slot);
    if (ret != 0)
        return ret;
    store::SeedRequest request{};
    request.act = static_cast<std::uint32_t>(act_of(call.act));
    request.expire_s = call.expire_s;
    request.number = call.number;
    request.budget = call.budget / page_size();
    if (call.budget != 0 && request.budget == 0)
        request.budget = 1;
    (void)call.label.copy(request.label, sizeof(request.label) - 1);
    void *const memory =
        ::mmap(nullptr, sizeof(Room), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    store::SeedReply reply{};
    if (memory == MAP_FAILED) {
        ret = -errno;
    } else {
        auto &room = *static_cast<Room *>(memory);
        store::Connection &connection = pool_.at(slot);
        ret = connection.seed(request, reply, room.entries, room.packet);
        // What was begun at a broker that has gone since is gone with it.
        if (ret == -ECONNRESET && call.act != SeedCall::Act::kEnd && pool_.reopen(path_, slot) == 0)
            ret = connection.seed(request, reply, room.entries, room.packet);
        answer.count = ret == 0 ? std::min<std::size_t>(reply.count, list.size()) : 0;
        for (std::size_t i = 0; i < answer.count; ++i)
            list[i] = state_of(room.entries[i]);
        (void)::munmap(memory, sizeof(Room));
    }
    pool_.put_back(slot);
    if (ret != 0)
        return ret;
    answer.number = reply.number;
    std::memcpy(answer.token, reply.token, sizeof(answer.token));
    answer.room = reply.room * page_size();
    answer.dropped = reply.dropped * page_size();
    answer.uptime_s = reply.uptime_s;
    answer.more = reply.more + (reply.count - answer.count);
    if (call.act == SeedCall::Act::kBegin) {
        store::SeedToken token;
        std::memcpy(token.data(), reply.token, token.size());
        pool_.use_seed(token);
    }
    return 0;
}

void StoreBackend::trimmed(std::uint64_t bytes) noexcept {
    pool_.report_trimmed(static_cast<std::int64_t>(bytes / page_size()));
}

} // namespace upm
