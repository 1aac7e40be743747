// SPDX-License-Identifier: MIT
#include "cuda-cow/driver/driver.hpp"

#include <cerrno>
#include <map>
#include <mutex>
#include <upm/cuda.h>
#include <upm/cuda.hpp>

using namespace upm::cuda;

struct upm_cuda_buffer { // NOLINT(readability-identifier-naming): of C
    Buffer buffer;
};

namespace {

// One runtime for each device, made when first needed; kept for good, since buffers may
// outlive whatever asks.
upm::Result<Runtime> runtime(int device) {
    static auto *const lock = new std::mutex;                 // NOLINT
    static auto *const runtimes = new std::map<int, Runtime>; // NOLINT
    const std::lock_guard<std::mutex> guard(*lock);
    if (const auto found = runtimes->find(device); found != runtimes->end())
        return found->second;
    upm::Result<Runtime> opened = Runtime::open({.driver = {}, .device = device, .socket = {}});
    if (opened)
        runtimes->emplace(device, *opened);
    return opened;
}

} // namespace

extern "C" {

int upm_cuda_is_fake(int device) {
    const upm::Result<Runtime> gpu = runtime(device);
    return gpu ? static_cast<int>(gpu->fake()) : -gpu.error();
}

upm_cuda_buffer *upm_cuda_allocate(int device, size_t bytes, size_t extent_bytes,
                                   const char *name) {
    const upm::Result<Runtime> gpu = runtime(device);
    if (!gpu)
        return nullptr;
    const size_t unit = gpu->granularity();
    const size_t extent = (extent_bytes + unit - 1) / unit * unit;
    upm::Result<Buffer> made = Buffer::allocate(
        *gpu, bytes, {.extent_bytes = extent, .name = name != nullptr ? name : ""});
    if (!made)
        return nullptr;
    return new upm_cuda_buffer{std::move(*made)}; // NOLINT(cppcoreguidelines-owning-memory)
}

void upm_cuda_free(upm_cuda_buffer *buffer) {
    delete buffer; // NOLINT(cppcoreguidelines-owning-memory)
}

uint64_t upm_cuda_address(const upm_cuda_buffer *buffer) {
    return buffer->buffer.address();
}

int upm_cuda_advise(upm_cuda_buffer *buffer, upm_cuda_counts *counts) {
    const upm::Result<AdviseCounts> done = buffer->buffer.advise();
    if (counts != nullptr)
        *counts = {done->extents, done->merged,    done->published, done->already,
                   done->refused, done->different, done->bytes};
    return done.error();
}

int upm_cuda_get_stats(const upm_cuda_buffer *buffer, upm_cuda_stats *stats) {
    const BufferStats now = buffer->buffer.stats();
    *stats = {now.extents, now.shared,       now.private_bytes, now.shared_bytes,
              now.copies,  now.copied_bytes, now.rolled_back};
    return 0;
}

int upm_cuda_will_write(uint64_t address, size_t length) {
    return will_write(address, length).error();
}

const char *upm_cuda_error() {
    return last_error();
}
}
