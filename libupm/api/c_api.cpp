// SPDX-License-Identifier: MIT
#include <upm/upm.h>

#include "libupm/api/async.hpp"
#include "libupm/api/export.hpp"
#include "libupm/api/library.hpp"

#include <cerrno>
#include <cstdint>
#include <cstring>

namespace {

int submit(const upm::Request &request, upm_counts *counts) noexcept {
    const upm::EntryGuard guard;
    upm_counts unwanted;
    return upm::engine_for_work().submit(request, counts != nullptr ? *counts : unwanted);
}

} // namespace

UPM_EXPORT int upm_advise(void *addr, size_t len, unsigned flags, upm_counts *counts) {
    return submit({.addr = reinterpret_cast<std::uintptr_t>(addr), .len = len, .flags = flags},
                  counts);
}

UPM_EXPORT int upm_unmerge(void *addr, size_t len, upm_counts *counts) {
    return submit({.addr = reinterpret_cast<std::uintptr_t>(addr), .len = len, .unmerge = true},
                  counts);
}

UPM_EXPORT int upm_advise_pid(int pid, uint64_t addr, uint64_t len, unsigned flags,
                              upm_counts *counts) {
    return submit({.addr = addr, .len = len, .flags = flags, .pid = pid}, counts);
}

UPM_EXPORT int upm_unmerge_pid(int pid, uint64_t addr, uint64_t len, upm_counts *counts) {
    return submit({.addr = addr, .len = len, .pid = pid, .unmerge = true}, counts);
}

UPM_EXPORT int64_t upm_load(int fd, int64_t offset, void *into, size_t len, unsigned flags,
                            upm_load_counts *counts) {
    const upm::EntryGuard guard;
    upm_load_counts unwanted;
    return upm::engine_for_work().load(
        {.fd = fd, .offset = offset, .into = into, .len = len, .flags = flags},
        counts != nullptr ? *counts : unwanted);
}

UPM_EXPORT int upm_advise_async(void *addr, size_t len, unsigned flags) {
    const upm::EntryGuard guard;
    const upm::Request request{
        .addr = reinterpret_cast<std::uintptr_t>(addr), .len = len, .flags = flags};
    upm::Job *job = nullptr;
    int fd = -1;
    const int ret = upm::async_start(upm::engine_for_work(), request, true, job, fd);
    return ret != 0 ? ret : fd;
}

UPM_EXPORT int upm_async_finish(int fd, upm_counts *counts) {
    const upm::EntryGuard guard;
    upm_counts unwanted;
    upm::Job *const job = upm::async_claim(fd);
    if (job == nullptr)
        return -EBADF;
    const int ret = upm::async_wait(*job, counts != nullptr ? *counts : unwanted);
    upm::async_release(job);
    return ret;
}

UPM_EXPORT int upm_domain_open(const uint8_t key[16]) {
    const upm::EntryGuard guard;
    std::uint8_t copy[16];
    std::memcpy(copy, key, sizeof(copy));
    return upm::engine().open_domain(copy);
}

UPM_EXPORT int upm_domain_use(int fd) {
    const upm::EntryGuard guard;
    return upm::engine().use_domain(fd);
}

UPM_EXPORT int upm_info(struct upm_info *info) {
    const upm::EntryGuard guard;
    upm::engine().info(*info);
    return 0;
}

UPM_EXPORT int upm_stats(struct upm_stats *stats) {
    const upm::EntryGuard guard;
    return upm::engine().stats(-1, *stats);
}
