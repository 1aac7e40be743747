// SPDX-License-Identifier: MIT
#include "libupm/engine/engine.hpp"

#include "libupm/base/plain_read.hpp"
#include "libupm/base/system.hpp"

#include <cerrno>
#include <climits>
#include <cstring>
#include <unistd.h>

namespace upm {

namespace {

// Rounds [addr, addr + len) inward to whole pages. False: it overflows. A range
// without a whole page gets the length 0.
bool round_inward(std::uint64_t addr, std::uint64_t len, Call &call) noexcept {
    const std::uint64_t mask = page_size() - 1;
    std::uint64_t end = 0;
    if (__builtin_add_overflow(addr, len, &end))
        return false;
    std::uint64_t start = 0;
    if (__builtin_add_overflow(addr, mask, &start))
        return true; // inside the last page of all
    start &= ~mask;
    end &= ~mask;
    if (end > start) {
        call.addr = start;
        call.len = end - start;
    }
    return true;
}

} // namespace

void Engine::start(const Wish &wish, const Catalog &catalog) noexcept {
    choose(wish, catalog, choice_);
    own_domain_ = choice_.domain_fd;
}

int Engine::default_domain() const noexcept {
    const int used = used_domain_.load();
    return used >= 0 ? used : own_domain_.load();
}

int Engine::prepare(const Request &request, Call &call) const noexcept {
    call = Call{};
    if ((request.flags & ~(UPM_DRY_RUN | UPM_QUIESCENT)) != 0 ||
        (request.unmerge && (request.flags & UPM_DRY_RUN) != 0) || request.pid < 0 ||
        request.domain_fd < -1)
        return -EINVAL;
    if (!round_inward(request.addr, request.len, call))
        return -EINVAL;
    call.pid = request.pid == ::getpid() ? 0 : request.pid;
    call.domain_fd = request.domain_fd >= 0 ? request.domain_fd : default_domain();
    call.unmerge = request.unmerge;
    call.holes = request.holes;
    call.dry_run = (request.flags & UPM_DRY_RUN) != 0;
    call.quiescent = (request.flags & UPM_QUIESCENT) != 0;
    call.known_only = request.known_only;
    call.layout = request.layout;
    call.gate = request.gate;

    const Capabilities can = choice_.backend->capabilities();
    if (can.advise && (can.dry_run || !call.dry_run) && (can.unmerge || !call.unmerge) &&
        (can.remote || call.pid == 0) && (can.known_only || !call.known_only) &&
        (can.domains || call.domain_fd < 0) && (call.quiescent || call.unmerge || !can.quiescent))
        return 0;
    return -EOPNOTSUPP;
}

// A program that closes every descriptor it does not know closes the one that
// belongs to UPM_DOMAIN, too.
bool Engine::reopen_default_domain(int &fd) noexcept {
    if (fd < 0 || fd != own_domain_.load() || used_domain_.load() >= 0)
        return false;
    const int fresh = choice_.backend->open_domain(choice_.domain_key);
    if (fresh < 0)
        return false;
    if (own_domain_.compare_exchange_strong(fd, fresh))
        fd = fresh;
    else
        ::close(fresh); // another thread was faster, and fd is now its descriptor
    return true;
}

int Engine::run(const Call &call, upm_counts &counts) noexcept {
    counts = {};
    if (call.len == 0)
        return 0;
    Call attempt = call;
    int ret = choice_.backend->run(attempt, counts);
    if (ret == -EBADF && reopen_default_domain(attempt.domain_fd)) {
        counts = {};
        ret = choice_.backend->run(attempt, counts);
    }
    counts.bytes = (counts.merged + counts.inserted + counts.zero) * page_size();
    return ret;
}

int Engine::submit(const Request &request, upm_counts &counts) noexcept {
    counts = {};
    Call call;
    const int ret = prepare(request, call);
    return ret != 0 ? ret : run(call, counts);
}

LoadCall Engine::load_call(const LoadRequest &request) const noexcept {
    const bool apart = choice_.loader != choice_.backend; // it knows the domains of its own only
    return {.fd = request.fd,
            .offset = static_cast<std::uint64_t>(request.offset),
            .into = static_cast<std::byte *>(request.into),
            .len = request.len,
            .domain_fd = request.domain_fd >= 0 ? request.domain_fd
                         : apart                ? -1
                                                : default_domain(),
            .gate = request.gate,
            .ordinary = (request.flags & UPM_LOAD_ORDINARY) != 0,
            .patient = request.patient || (request.flags & UPM_LOAD_PATIENT) != 0,
            .late = request.late};
}

// 0, or -errno of a request that is not in order.
int Engine::check_load(const LoadRequest &request) const noexcept {
    const auto address = reinterpret_cast<std::uintptr_t>(request.into);
    std::uint64_t end = 0;
    std::int64_t file_end = 0;
    if ((request.flags & ~(UPM_LOAD_ORDINARY | UPM_LOAD_PATIENT)) != 0 || request.domain_fd < -1 ||
        request.offset < 0 || __builtin_add_overflow(address, request.len, &end) ||
        __builtin_add_overflow(request.offset, request.len, &file_end))
        return -EINVAL;
    if (request.domain_fd >= 0 &&
        (choice_.loader != choice_.backend || !choice_.backend->capabilities().domains))
        return -EOPNOTSUPP;
    return 0;
}

std::int64_t Engine::load(const LoadRequest &request, upm_load_counts &counts) noexcept {
    counts = {};
    if (const int ret = check_load(request); ret != 0)
        return ret;
    const std::uint64_t start = now_ns();
    const LoadCall call = load_call(request);
    // pread(2) itself says what is wrong with a descriptor, when asked for nothing.
    const std::int64_t got = request.len != 0 ? choice_.loader->load(call, counts)
                                              : plain_read(call.fd, call.offset, call.into, 0);
    counts.bytes = counts.shared + counts.made + counts.copied;
    counts.nanoseconds = now_ns() - start;
    return got;
}

void Engine::loaded_plainly(const LoadRequest &request) noexcept {
    choice_.loader->loaded_plainly(load_call(request));
}

bool Engine::wanted(const LoadRequest &request) noexcept {
    return check_load(request) == 0 && request.len != 0 &&
           choice_.loader->wanted(load_call(request));
}

int Engine::open_domain(const std::uint8_t (&key)[16]) noexcept {
    return choice_.backend->capabilities().domains ? choice_.backend->open_domain(key)
                                                   : -EOPNOTSUPP;
}

int Engine::use_domain(int fd) noexcept {
    if (fd < -1)
        return -EINVAL;
    if (fd >= 0) {
        if (!choice_.backend->capabilities().domains)
            return -EOPNOTSUPP;
        // Asking for its statistics is how to tell a domain from another file.
        struct upm_stats unused {};
        const int ret = choice_.backend->stats(fd, unused);
        if (ret != 0)
            return ret;
    }
    used_domain_ = fd;
    return 0;
}

int Engine::stats(int domain_fd, struct upm_stats &stats) noexcept {
    stats = {};
    if (domain_fd >= 0 && !choice_.backend->capabilities().domains)
        return -EOPNOTSUPP;
    return choice_.backend->stats(domain_fd >= 0 ? domain_fd : default_domain(), stats);
}

int Engine::describe(std::span<char> text) noexcept {
    return choice_.backend->describe(text);
}

int Engine::seed(SeedCall call, SeedAnswer &answer, std::span<SeedState> list) noexcept {
    call.domain_fd = choice_.loader == choice_.backend ? default_domain() : -1;
    return choice_.loader->seed(call, answer, list);
}

void Engine::trimmed(std::uint64_t bytes) noexcept {
    choice_.loader->trimmed(bytes);
}

bool Engine::move_to_own_table() noexcept {
    if (!choice_.backend->capabilities().any_table || !choice_.loader->capabilities().any_table)
        return false;
    return choice_.loader->take_own_table();
}

void Engine::info(struct upm_info &info) const noexcept {
    const Capabilities can = choice_.backend->capabilities();
    info = {};
    info.backend = choice_.backend->name();
    info.reason = choice_.reason.c_str();
    info.version = UPM_VERSION;
    info.page_size = static_cast<std::uint32_t>(page_size());
    info.immediate = can.immediate;
    info.remote = can.remote;
    info.file_pages = can.file_pages;
    info.unmerge = can.unmerge;
    info.dry_run = can.dry_run;
    info.domains = can.domains;
    info.restores = can.restores;
    info.quiescent = can.quiescent;
    info.load = choice_.loader->capabilities().load;
}

} // namespace upm
