// SPDX-License-Identifier: MIT
//
// Physical memory, addresses, and what lies between: the fake's virtual memory
// management calls.
#include "cuda-cow/fake/device.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <fcntl.h>
#include <iterator>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace upm::cuda::fake {

namespace {

bool power_of_two(std::size_t value) {
    return value != 0 && (value & (value - 1)) == 0;
}

// Pre: the device's lock is held, in all below.
void drop_if_unused(std::map<abi::Handle, Allocation>::iterator found) {
    Device &all = device();
    const Allocation &allocation = found->second;
    if (allocation.references != 0 || allocation.mappings != 0)
        return;
    if (allocation.created)
        all.created_bytes -= allocation.size;
    ::close(allocation.fd);
    all.allocations.erase(found);
}

// First mapping that reaches beyond `address`.
std::map<abi::DevicePtr, Mapping>::iterator first_beyond(abi::DevicePtr address) {
    auto &mappings = device().mappings;
    auto at = mappings.upper_bound(address);
    if (at != mappings.begin()) {
        const auto before = std::prev(at);
        if (before->first + before->second.size > address)
            return before;
    }
    return at;
}

// Whether whole mappings make up the range exactly, without a gap.
bool whole_mappings(abi::DevicePtr address, std::size_t size) {
    const auto &mappings = device().mappings;
    const abi::DevicePtr end = address + size;
    for (auto at = mappings.find(address); address < end; ++at) {
        if (at == mappings.end() || at->first != address || at->second.size > end - address)
            return false;
        address += at->second.size;
    }
    return true;
}

bool inside_reservation(abi::DevicePtr address, std::size_t size) {
    const auto &reservations = device().reservations;
    auto at = reservations.upper_bound(address);
    if (at == reservations.begin())
        return false;
    --at;
    return address >= at->first && address + size <= at->first + at->second &&
           address + size > address;
}

int protection(int access) {
    switch (access) {
    case abi::kAccessRead:
        return PROT_READ;
    case abi::kAccessReadWrite:
        return PROT_READ | PROT_WRITE;
    default:
        return PROT_NONE;
    }
}

bool valid(const abi::MemAllocationProp *prop) {
    return prop != nullptr && prop->type == abi::kAllocationPinned &&
           prop->location.type == abi::kLocationDevice && prop->location.id == 0 &&
           (prop->requested_handle_types & ~abi::kHandlePosixFd) == 0;
}

abi::Handle add(const Allocation &allocation) {
    Device &all = device();
    const abi::Handle handle = all.next_handle++;
    all.allocations.emplace(handle, allocation);
    return handle;
}

// Fresh device memory holds what others left there; the fake's holds what nobody wrote,
// and something else each time.
bool poison(int fd, std::size_t size) {
    void *const at = ::mmap(nullptr, size, PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED)
        return false;
    const std::uint64_t word =
        (static_cast<std::uint64_t>(::getpid()) << 32 ^ device().next_handle) * 0x9e3779b97f4a7c15 |
        1;
    std::fill_n(static_cast<std::uint64_t *>(at), size / sizeof word, word);
    (void)::munmap(at, size);
    return true;
}

} // namespace

bool is_mapped(abi::DevicePtr address, std::size_t size, int access) {
    Device &all = device();
    const std::lock_guard<std::mutex> guard(all.lock);
    const abi::DevicePtr end = address + size;
    if (end < address)
        return false;
    for (auto at = first_beyond(address); address < end; ++at) {
        if (at == all.mappings.end() || at->first > address ||
            (at->second.access & access) != access)
            return false;
        address = at->first + at->second.size;
    }
    return true;
}

} // namespace upm::cuda::fake

using namespace upm::cuda;
using fake::device;
using fake::enter;

// NOLINTBEGIN(readability-identifier-naming)
#pragma GCC visibility push(default)
extern "C" {

abi::Status cuMemGetAllocationGranularity(std::size_t *bytes, const abi::MemAllocationProp *prop,
                                          int option) {
    if (const abi::Status status = enter("cuMemGetAllocationGranularity", false);
        status != abi::kSuccess)
        return status;
    if (bytes == nullptr || !fake::valid(prop) || option < 0 || option > 1)
        return abi::kInvalidValue;
    *bytes = device().settings.granularity;
    return abi::kSuccess;
}

abi::Status cuMemCreate(abi::Handle *handle, std::size_t size, const abi::MemAllocationProp *prop,
                        unsigned long long flags) {
    if (const abi::Status status = enter("cuMemCreate", false); status != abi::kSuccess)
        return status;
    fake::Device &all = device();
    const std::lock_guard<std::mutex> guard(all.lock);
    if (handle == nullptr || !fake::valid(prop) || flags != 0 || size == 0 ||
        size % all.settings.granularity != 0)
        return abi::kInvalidValue;
    if (all.settings.memory != 0 && size > all.settings.memory - all.created_bytes)
        return abi::kOutOfMemory;
    const int fd = ::memfd_create("upm-fake-gpu", MFD_CLOEXEC);
    if (fd < 0)
        return abi::kOutOfMemory;
    if (::ftruncate(fd, static_cast<off_t>(size)) != 0 || !fake::poison(fd, size)) {
        ::close(fd);
        return abi::kOutOfMemory;
    }
    all.created_bytes += size;
    *handle = fake::add({.fd = fd,
                         .size = size,
                         .created = true,
                         .exportable = prop->requested_handle_types != 0,
                         .references = 1});
    return abi::kSuccess;
}

abi::Status cuMemRelease(abi::Handle handle) {
    if (const abi::Status status = enter("cuMemRelease", false); status != abi::kSuccess)
        return status;
    fake::Device &all = device();
    const std::lock_guard<std::mutex> guard(all.lock);
    const auto found = all.allocations.find(handle);
    if (found == all.allocations.end() || found->second.references == 0)
        return abi::kInvalidValue;
    --found->second.references;
    fake::drop_if_unused(found);
    return abi::kSuccess;
}

abi::Status cuMemAddressReserve(abi::DevicePtr *address, std::size_t size, std::size_t alignment,
                                abi::DevicePtr /*hint*/, unsigned long long flags) {
    if (const abi::Status status = enter("cuMemAddressReserve", false); status != abi::kSuccess)
        return status;
    fake::Device &all = device();
    const std::lock_guard<std::mutex> guard(all.lock);
    const std::size_t unit = all.settings.granularity;
    if (address == nullptr || flags != 0 || size == 0 || size % unit != 0 ||
        (alignment != 0 && !fake::power_of_two(alignment)))
        return abi::kInvalidValue;
    const std::size_t align = alignment > unit ? alignment : unit;
    void *const mapped = ::mmap(nullptr, size + align, PROT_NONE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED)
        return abi::kOutOfMemory;
    const auto start = reinterpret_cast<std::uintptr_t>(mapped);
    const std::uintptr_t aligned = (start + align - 1) / align * align;
    if (aligned > start)
        (void)::munmap(mapped, aligned - start);
    (void)::munmap(reinterpret_cast<void *>(aligned + size), start + align - aligned);
    all.reservations.emplace(aligned, size);
    *address = aligned;
    return abi::kSuccess;
}

abi::Status cuMemAddressFree(abi::DevicePtr address, std::size_t size) {
    if (const abi::Status status = enter("cuMemAddressFree", false); status != abi::kSuccess)
        return status;
    fake::Device &all = device();
    const std::lock_guard<std::mutex> guard(all.lock);
    const auto found = all.reservations.find(address);
    if (found == all.reservations.end() || found->second != size)
        return abi::kInvalidValue;
    const auto mapped = fake::first_beyond(address);
    if (mapped != all.mappings.end() && mapped->first < address + size)
        return abi::kInvalidValue;
    (void)::munmap(reinterpret_cast<void *>(address), size);
    all.reservations.erase(found);
    return abi::kSuccess;
}

abi::Status cuMemMap(abi::DevicePtr address, std::size_t size, std::size_t offset,
                     abi::Handle handle, unsigned long long flags) {
    if (const abi::Status status = enter("cuMemMap", false); status != abi::kSuccess)
        return status;
    fake::Device &all = device();
    const std::lock_guard<std::mutex> guard(all.lock);
    const auto found = all.allocations.find(handle);
    if (found == all.allocations.end() || found->second.references == 0 || offset != 0 ||
        flags != 0 || size != found->second.size || address % all.settings.granularity != 0 ||
        !fake::inside_reservation(address, size))
        return abi::kInvalidValue;
    const auto next = fake::first_beyond(address);
    if (next != all.mappings.end() && next->first < address + size)
        return abi::kInvalidValue;
    if (all.settings.mappings != 0 && all.mappings.size() >= all.settings.mappings)
        return abi::kOutOfMemory;
    if (::mmap(reinterpret_cast<void *>(address), size, PROT_NONE, MAP_SHARED | MAP_FIXED,
               found->second.fd, 0) == MAP_FAILED)
        return abi::kOutOfMemory;
    ++found->second.mappings;
    all.mappings.emplace(address, fake::Mapping{.size = size, .handle = handle});
    return abi::kSuccess;
}

abi::Status cuMemUnmap(abi::DevicePtr address, std::size_t size) {
    if (const abi::Status status = enter("cuMemUnmap", false); status != abi::kSuccess)
        return status;
    fake::Device &all = device();
    const std::lock_guard<std::mutex> guard(all.lock);
    if (size == 0 || !fake::whole_mappings(address, size))
        return abi::kInvalidValue;
    if (::mmap(reinterpret_cast<void *>(address), size, PROT_NONE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
        return abi::kUnknown;
    for (auto at = all.mappings.find(address);
         at != all.mappings.end() && at->first < address + size;) {
        const auto allocation = all.allocations.find(at->second.handle);
        --allocation->second.mappings;
        fake::drop_if_unused(allocation);
        at = all.mappings.erase(at);
    }
    return abi::kSuccess;
}

abi::Status cuMemSetAccess(abi::DevicePtr address, std::size_t size,
                           const abi::MemAccessDesc *descriptions, std::size_t count) {
    if (const abi::Status status = enter("cuMemSetAccess", false); status != abi::kSuccess)
        return status;
    fake::Device &all = device();
    const std::lock_guard<std::mutex> guard(all.lock);
    if (descriptions == nullptr || count != 1 ||
        descriptions->location.type != abi::kLocationDevice || size == 0 ||
        !fake::whole_mappings(address, size))
        return abi::kInvalidValue;
    if (descriptions->location.id != 0)
        return abi::kInvalidDevice;
    const int access = descriptions->flags;
    if (access != abi::kAccessNone && access != abi::kAccessRead && access != abi::kAccessReadWrite)
        return abi::kInvalidValue;
    if (::mprotect(reinterpret_cast<void *>(address), size, fake::protection(access)) != 0)
        return abi::kUnknown;
    for (auto at = all.mappings.find(address);
         at != all.mappings.end() && at->first < address + size; ++at)
        at->second.access = access;
    return abi::kSuccess;
}

abi::Status cuMemGetAccess(unsigned long long *flags, const abi::MemLocation *location,
                           abi::DevicePtr address) {
    if (const abi::Status status = enter("cuMemGetAccess", false); status != abi::kSuccess)
        return status;
    fake::Device &all = device();
    const std::lock_guard<std::mutex> guard(all.lock);
    const auto found = fake::first_beyond(address);
    if (flags == nullptr || location == nullptr || location->type != abi::kLocationDevice ||
        location->id != 0 || found == all.mappings.end() || found->first > address)
        return abi::kInvalidValue;
    *flags = static_cast<unsigned long long>(found->second.access);
    return abi::kSuccess;
}

abi::Status cuMemExportToShareableHandle(void *shareable, abi::Handle handle, int type,
                                         unsigned long long flags) {
    if (const abi::Status status = enter("cuMemExportToShareableHandle", false);
        status != abi::kSuccess)
        return status;
    fake::Device &all = device();
    const std::lock_guard<std::mutex> guard(all.lock);
    const auto found = all.allocations.find(handle);
    if (shareable == nullptr || found == all.allocations.end() || found->second.references == 0 ||
        !found->second.exportable || type != abi::kHandlePosixFd || flags != 0)
        return abi::kInvalidValue;
    const int fd = ::fcntl(found->second.fd, F_DUPFD_CLOEXEC, 0);
    if (fd < 0)
        return abi::kUnknown;
    *static_cast<int *>(shareable) = fd;
    return abi::kSuccess;
}

abi::Status cuMemImportFromShareableHandle(abi::Handle *handle, void *shareable, int type) {
    if (const abi::Status status = enter("cuMemImportFromShareableHandle", false);
        status != abi::kSuccess)
        return status;
    fake::Device &all = device();
    const std::lock_guard<std::mutex> guard(all.lock);
    const int fd = static_cast<int>(reinterpret_cast<std::intptr_t>(shareable));
    struct stat status = {};
    if (handle == nullptr || type != abi::kHandlePosixFd || ::fstat(fd, &status) != 0 ||
        ::fcntl(fd, F_GET_SEALS) < 0 || status.st_size <= 0 ||
        static_cast<std::size_t>(status.st_size) % all.settings.granularity != 0)
        return abi::kInvalidValue;
    const int own = ::fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (own < 0)
        return abi::kOutOfMemory;
    // The real driver exports nothing that it imported.
    *handle = fake::add({.fd = own,
                         .size = static_cast<std::size_t>(status.st_size),
                         .created = false,
                         .exportable = false,
                         .references = 1});
    return abi::kSuccess;
}

abi::Status cuMemRetainAllocationHandle(abi::Handle *handle, void *address) {
    if (const abi::Status status = enter("cuMemRetainAllocationHandle", false);
        status != abi::kSuccess)
        return status;
    fake::Device &all = device();
    const std::lock_guard<std::mutex> guard(all.lock);
    const auto at = reinterpret_cast<abi::DevicePtr>(address);
    const auto found = fake::first_beyond(at);
    if (handle == nullptr || found == all.mappings.end() || found->first > at)
        return abi::kInvalidValue;
    *handle = found->second.handle;
    ++all.allocations.at(*handle).references;
    return abi::kSuccess;
}
}
#pragma GCC visibility pop
// NOLINTEND(readability-identifier-naming)
