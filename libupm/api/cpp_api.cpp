// SPDX-License-Identifier: MIT
#include <upm/upm.hpp>

#include "libupm/api/async.hpp"
#include "libupm/api/catalog.hpp"
#include "libupm/api/library.hpp"
#include "libupm/store/client.hpp"

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <unistd.h>

namespace upm {

namespace {

// An Options::domain that is not open must not quietly become the default one.
constexpr int kNoDomain = -2;

Request make_request(void *addr, std::size_t len, const Options &options, bool unmerge) noexcept {
    Request request{.addr = reinterpret_cast<std::uintptr_t>(addr),
                    .len = len,
                    .flags = (options.dry_run ? UPM_DRY_RUN : 0U) |
                             (options.quiescent ? UPM_QUIESCENT : 0U),
                    .pid = options.pid,
                    .unmerge = unmerge};
    if (options.domain != nullptr)
        request.domain_fd = *options.domain ? options.domain->fd() : kNoDomain;
    return request;
}

Result<Counts> submit(const Request &request) noexcept {
    const EntryGuard guard;
    Counts counts;
    const int ret = engine_for_work().submit(request, counts);
    return {counts, -ret};
}

} // namespace

Result<Counts> advise(void *addr, std::size_t len, const Options &options) noexcept {
    return submit(make_request(addr, len, options, false));
}

Result<Counts> unmerge(void *addr, std::size_t len, const Options &options) noexcept {
    return submit(make_request(addr, len, options, true));
}

Result<Loaded> load(int fd, std::uint64_t offset, std::span<std::byte> into,
                    const LoadOptions &options) noexcept {
    const EntryGuard guard;
    Loaded counts;
    if (offset > static_cast<std::uint64_t>(INT64_MAX))
        return {counts, EINVAL};
    LoadRequest request{.fd = fd,
                        .offset = static_cast<std::int64_t>(offset),
                        .into = into.data(),
                        .len = into.size(),
                        .flags = (options.ordinary ? UPM_LOAD_ORDINARY : 0U) |
                                 (options.patient ? UPM_LOAD_PATIENT : 0U)};
    if (options.domain != nullptr)
        request.domain_fd = *options.domain ? options.domain->fd() : kNoDomain;
    const std::int64_t got = engine_for_work().load(request, counts);
    return {counts, got < 0 ? static_cast<int>(-got) : 0};
}

Result<Async> advise_async(void *addr, std::size_t len, const Options &options) noexcept {
    const EntryGuard guard;
    Async handle;
    Job *job = nullptr;
    int fd = -1;
    const int ret =
        async_start(engine_for_work(), make_request(addr, len, options, false), false, job, fd);
    if (ret == 0) {
        handle.job_ = job;
        handle.fd_ = fd;
    }
    return {std::move(handle), -ret};
}

Async::~Async() {
    if (job_ != nullptr) {
        const EntryGuard guard;
        async_release(static_cast<Job *>(job_));
    }
}

Result<Counts> Async::wait() noexcept {
    if (job_ == nullptr)
        return {Counts(), EINVAL};
    const EntryGuard guard;
    Counts counts;
    const int ret = async_wait(*static_cast<Job *>(job_), counts);
    return {counts, -ret};
}

bool Async::done() const noexcept {
    return job_ == nullptr || async_done(*static_cast<Job *>(job_));
}

Domain::~Domain() {
    if (fd_ >= 0) {
        const EntryGuard guard;
        ::close(fd_);
    }
}

Result<Domain> Domain::open(std::span<const std::byte, 16> key) noexcept {
    const EntryGuard guard;
    std::uint8_t copy[16];
    std::memcpy(copy, key.data(), sizeof(copy));
    const int fd = engine().open_domain(copy);
    return fd < 0 ? Result<Domain>(Domain(), -fd) : Result<Domain>(Domain(fd));
}

Info info() noexcept {
    const EntryGuard guard;
    Info found{};
    engine().info(found);
    return found;
}

Result<Stats> stats() noexcept {
    const EntryGuard guard;
    Stats found{};
    const int ret = engine().stats(-1, found);
    return {found, -ret};
}

Result<Stats> stats(const Domain &domain) noexcept {
    const EntryGuard guard;
    Stats found{};
    const int ret = domain ? engine().stats(domain.fd(), found) : -EBADF;
    return {found, -ret};
}

Result<std::size_t> describe_service(std::span<char> text) noexcept {
    const EntryGuard guard;
    const int ret = engine().describe(text);
    return {static_cast<std::size_t>(ret < 0 ? 0 : ret), ret < 0 ? -ret : 0};
}

void start_no_service() noexcept {
    store::start_no_broker();
}

Result<BackendStatus> backend_status(std::size_t index) noexcept {
    const EntryGuard guard;
    BackendStatus status{};
    const Catalog catalog = default_catalog();
    if (index >= catalog.size())
        return {status, EINVAL};
    const CatalogRow &row = catalog[index];
    Reason reason;
    if (row.backend == nullptr)
        reason.set("not built");
    else
        status.available = row.backend->open(reason) == 0;
    status.name = row.name;
    status.active = row.backend == &engine().backend();
    (void)std::snprintf(status.reason, sizeof(status.reason), "%s", reason.c_str());
    return {status};
}

} // namespace upm
