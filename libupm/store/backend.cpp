// SPDX-License-Identifier: MIT
#include "libupm/store/backend.hpp"

#include "libupm/base/env.hpp"
#include "libupm/base/system.hpp"
#include "libupm/mm/layout.hpp"
#include "libupm/mm/mapped.hpp"
#include "libupm/mm/pagemap.hpp"
#include "libupm/store/domain_file.hpp"
#include "libupm/store/eligible.hpp"
#include "libupm/store/hash.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <sys/mman.h>
#include <unistd.h>

namespace upm {

namespace {

using store::DomainKey;

void count_skipped(std::uint64_t bytes, unsigned reason, upm_counts &counts) noexcept {
    counts.pages += bytes / page_size();
    counts.skipped[reason] += bytes / page_size();
}

void explain(int error, const char *path, Reason &reason) noexcept {
    switch (error) {
    case -ENOENT:
    case -ECONNREFUSED:
        reason.set("no broker at %s, and no program upmd to start (install it, or run upmd)", path);
        break;
    case -EACCES:
    case -EPERM:
        reason.set("%s is served by another user, or not for this one", path);
        break;
    default:
        reason.set("broker at %s: %s", path, std::strerror(-error));
    }
}

// The mappings of a call's range: those that the caller has looked up before, or the
// one that can be recognized without the kernel's walk over every page, or anew.
class Mappings {
  public:
    explicit Mappings(const Call &call) noexcept {
        // What is merged is found by its flags, which the call itself may have changed.
        if (!call.unmerge && call.layout != nullptr)
            known_ = call.layout->covering(call.addr, call.addr + call.len);
        if (known_.empty() && !call.unmerge &&
            find_plain_vma(call.addr, call.addr + call.len, plain_))
            known_ = {&plain_, 1};
        if (known_.empty())
            smaps_.emplace(own_smaps());
    }
    Mappings(const Mappings &) = delete;
    Mappings &operator=(const Mappings &) = delete;
    ~Mappings() = default;

    bool next(Vma &vma) noexcept {
        if (smaps_)
            return smaps_->next(vma);
        if (known_.empty())
            return false;
        vma = known_.front();
        known_ = known_.subspan(1);
        return true;
    }

    [[nodiscard]] int error() const noexcept { return smaps_ ? smaps_->error() : 0; }

  private:
    Vma plain_;
    std::span<const Vma> known_;
    std::optional<SmapsReader> smaps_;
};

// A connection of the pool for one call.
class Borrowed {
  public:
    explicit Borrowed(store::ConnectionPool &pool) noexcept : pool_(pool) {}
    Borrowed(const Borrowed &) = delete;
    Borrowed &operator=(const Borrowed &) = delete;
    ~Borrowed() {
        if (slot_ != store::ConnectionPool::kSlots)
            pool_.put_back(slot_);
    }

    // 0 or -errno.
    int acquire(const store::SocketPath &path, const DomainKey &domain, Gate *gate) noexcept {
        std::size_t slot = 0;
        const int ret = pool_.acquire(path, domain, slot);
        if (ret == 0) {
            slot_ = slot;
            pool_.at(slot).use_gate(gate);
        }
        return ret;
    }
    // One that is closed before acquire().
    store::Connection &connection() noexcept {
        return slot_ != store::ConnectionPool::kSlots ? pool_.at(slot_) : none_;
    }

  private:
    store::ConnectionPool &pool_;
    std::size_t slot_ = store::ConnectionPool::kSlots;
    store::Connection none_;
};

} // namespace

int StoreBackend::open(Reason &reason) noexcept {
    store::SocketPath path;
    int ret = store::find_socket(path);
    if (ret != 0) {
        reason.set("UPM_SOCKET is longer than a socket's name may be (%zu bytes)",
                   sizeof(path.text) - 1);
        return ret;
    }
    if (const PageMap pagemap; pagemap.error() != 0) {
        reason.set("%s: %s (mount /proc)", PageMap::kThisProcess, std::strerror(-pagemap.error()));
        return -EOPNOTSUPP;
    }
    path_ = path;
    mode_ = store::find_freeze_mode();
    budget_.find_limit();
    store::Pace::prepare();
    (void)store::hash_bytes(path_.text, sizeof(path_.text), 0); // which finds out how it is done
    std::uint8_t token[store::kSeedToken];
    if (env::get(env::seed, token) == env::KeyState::kValid)
        pool_.use_seed(std::to_array(token));
    std::size_t slot = 0;
    ret = pool_.acquire(path_, {}, slot);
    // For somebody who only looks: it is there as soon as anybody needs it.
    const bool later = (ret == -ENOENT || ret == -ECONNREFUSED) && store::would_start_broker();
    if (ret != 0 && !later) {
        explain(ret, path_.text, reason);
        return ret;
    }
    if (!later)
        pool_.put_back(slot);
    reason.set("%sbroker at %s, freezes by %s%s", later ? "the first program starts a " : "",
               path_.text, store::freeze_mode_name(mode_),
               mode_ == store::FreezeMode::kKernel
                   ? ""
                   : ": only memory vouched for as quiescent (UPM_QUIESCENT), until userfaultfd "
                     "is allowed (sysctl vm.unprivileged_userfaultfd=1, or /dev/userfaultfd)");
    return 0;
}

int StoreBackend::run_parts(const Call &call, const void *frame, store::Merge &merge,
                            upm_counts &counts) noexcept {
    const std::uint64_t end = call.addr + call.len;
    std::uint64_t next = call.addr;
    const Mapped<Mappings> mappings(call); // its reader is too large for a small stack
    if (!mappings)
        return -ENOMEM;
    Vma vma;
    while (next < end && mappings->next(vma)) {
        if (vma.end <= next)
            continue;
        if (vma.start >= end)
            break;
        Vma part = vma;
        part.start = std::max(vma.start, next);
        part.end = std::min(vma.end, end);
        if (part.start > next) // went away after the check for holes
            count_skipped(part.start - next, UPM_SKIPPED_UNMAPPED, counts);
        next = part.end;
        unsigned reason = 0;
        int ret = 0;
        if (call.unmerge && (vma.flags & kVmaSegment) == 0) {
            counts.pages += (part.end - part.start) / page_size();
            counts.kept += (part.end - part.start) / page_size();
        } else if (!store::eligible(part, frame, reason)) {
            count_skipped(part.end - part.start, reason, counts);
        } else {
            ret = call.unmerge ? merge.unmerge(part) : merge.advise(part);
        }
        if (ret != 0)
            return ret;
    }
    if (mappings->error() != 0)
        return mappings->error();
    count_skipped(end - next, UPM_SKIPPED_UNMAPPED, counts);
    return merge.error();
}

int StoreBackend::run(const Call &call, upm_counts &counts) noexcept {
    // Here, since `counts` may lie in the range: nothing there can be written to
    // while it is frozen.
    upm_counts done{};
    const std::uint64_t start = now_ns();
    DomainKey domain;
    int ret = find_domain(call.domain_fd, domain);
    if (ret != 0)
        return ret;
    // MS_ASYNC does nothing but to look for holes, far faster than /proc does.
    if (!call.holes && ::msync(reinterpret_cast<void *>(call.addr), call.len, MS_ASYNC) != 0)
        return -errno;
    budget_.recount();
    Borrowed borrowed(pool_);
    ret = call.unmerge ? 0 : borrowed.acquire(path_, domain, call.gate);
    const Inside inside(ret == 0 ? call.gate : nullptr);
    if (ret == 0 && !inside)
        ret = -ECANCELED;
    if (ret == 0) {
        const Mapped<store::Merge> merge(store::Merge::Tools{.connection = borrowed.connection(),
                                                             .path = path_,
                                                             .budget = budget_,
                                                             .mode = mode_,
                                                             .gate = call.gate,
                                                             .publish = !call.known_only},
                                         done);
        ret = !merge ? -ENOMEM : merge->ready();
        if (ret == 0)
            ret = run_parts(call, __builtin_frame_address(0), *merge, done);
    }
    done.nanoseconds = now_ns() - start;
    counts = done;
    return ret;
}

bool StoreBackend::wanted(const LoadCall &call) noexcept {
    DomainKey domain;
    upm_load_counts none{};
    return call.len >= store::Load::kLeast && find_domain(call.domain_fd, domain) == 0 &&
           store::Load({.path = path_,
                        .pool = pool_,
                        .patience = patience_,
                        .making = making_,
                        .luck = luck_},
                       budget_, domain, call, none)
               .wanted();
}

std::int64_t StoreBackend::load(const LoadCall &call, upm_load_counts &counts) noexcept {
    DomainKey domain;
    // Without the domain that was asked for, nothing is shared.
    if (call.len < store::Load::kLeast || find_domain(call.domain_fd, domain) != 0)
        return Backend::load(call, counts);
    budget_.recount();
    LoadCall mine = call;
    mine.patient = call.patient || pool_.of_seed(); // what a seed is to keep may take its time
    store::Load load(
        {.path = path_, .pool = pool_, .patience = patience_, .making = making_, .luck = luck_},
        budget_, domain, mine, counts);
    return load.run();
}

void StoreBackend::loaded_plainly(const LoadCall &call) noexcept {
    DomainKey domain;
    if (call.len < store::Load::kLeast || find_domain(call.domain_fd, domain) != 0)
        return;
    upm_load_counts unused{};
    store::Load load(
        {.path = path_, .pool = pool_, .patience = patience_, .making = making_, .luck = luck_},
        budget_, domain, call, unused);
    load.tell();
}

int StoreBackend::use_key(const std::uint8_t (&key)[16]) noexcept {
    default_domain_.named = true;
    std::memcpy(default_domain_.key, key, sizeof(key));
    return 0;
}

// 0, or -EBADF: the descriptor is of something else.
int StoreBackend::find_domain(int fd, DomainKey &domain) const noexcept {
    if (fd >= 0)
        return store::read_domain(fd, domain);
    domain = default_domain_;
    return 0;
}

bool StoreBackend::unmapped() noexcept {
    budget_.recount();
    return pool_.report_unmapped(path_);
}

// A broker that nobody is connected to would end after a while.
bool StoreBackend::take_own_table() noexcept {
    constexpr int kPatienceMs = 100;
    pool_.close_idle();
    const bool taken = Backend::take_own_table();
    if (taken)
        budget_.leave_to_own_thread();
    std::size_t slot = 0;
    if (pool_.acquire_existing(path_, {}, kPatienceMs, slot) == 0)
        pool_.put_back(slot);
    return taken;
}

int StoreBackend::open_domain(const std::uint8_t (&key)[16]) noexcept {
    return store::make_domain(key);
}

int StoreBackend::stats(int domain_fd, struct upm_stats &stats) noexcept {
    DomainKey domain;
    int ret = find_domain(domain_fd, domain);
    if (ret != 0)
        return ret;
    std::size_t slot = 0;
    ret = pool_.acquire(path_, domain, slot);
    if (ret != 0)
        return ret;
    store::StatsReply reply{};
    ret = pool_.at(slot).stats(reply);
    if (ret == -ECONNRESET && pool_.reopen(path_, slot) == 0)
        ret = pool_.at(slot).stats(reply);
    pool_.put_back(slot);
    if (ret != 0)
        return ret;
    stats.pages_shared = reply.pages_shared;
    stats.pages_sharing = reply.pages_sharing;
    stats.pages_unused = reply.pages_unused;
    stats.max_pages = reply.max_pages;
    stats.metadata_bytes = reply.metadata_bytes;
    return 0;
}

int StoreBackend::describe(std::span<char> text) noexcept {
    std::size_t slot = 0;
    int ret = pool_.acquire(path_, {}, slot);
    if (ret != 0)
        return ret;
    void *const memory = ::mmap(nullptr, store::kMaxPacket, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        ret = -errno;
    } else {
        const std::span packet(static_cast<std::byte *>(memory), store::kMaxPacket);
        ret = pool_.at(slot).metrics(packet);
        if (ret == -ECONNRESET && pool_.reopen(path_, slot) == 0)
            ret = pool_.at(slot).metrics(packet);
        if (ret > 0) {
            ret = static_cast<int>(std::min(text.size(), static_cast<std::size_t>(ret)));
            std::memcpy(text.data(), memory, static_cast<std::size_t>(ret));
        }
        (void)::munmap(memory, store::kMaxPacket);
    }
    pool_.put_back(slot);
    return ret;
}

} // namespace upm
