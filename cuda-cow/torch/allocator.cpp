// SPDX-License-Identifier: MIT
//
// libupm-cuda-torch.so: an allocator for torch.cuda.CUDAPluggableAllocator. Every
// block that PyTorch asks for is a Buffer, so that a pool of weights (torch.cuda.
// MemPool) can be advised after loading. Needs no PyTorch to build: the interface is
// three C functions. See serve.py.
#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <map>
#include <mutex>
#include <sys/types.h>
#include <upm/cuda.hpp>

namespace {

using namespace upm::cuda;

constexpr std::size_t kLargeExtent = 16UL << 20;

struct Blocks {
    std::mutex lock;
    std::map<int, Runtime> runtimes; // by device
    std::map<Address, Buffer> buffers;
};

Blocks &blocks() {
    static auto *const only = new Blocks; // NOLINT(cppcoreguidelines-owning-memory)
    return *only;
}

// Pre: the lock is held.
const Runtime *runtime(int device) {
    auto &runtimes = blocks().runtimes;
    if (const auto found = runtimes.find(device); found != runtimes.end())
        return &found->second;
    upm::Result<Runtime> opened = Runtime::open({.driver = {}, .device = device, .socket = {}});
    if (!opened) {
        (void)std::fprintf(stderr, "upm-cuda-torch: device %d: %s\n", device, last_error());
        return nullptr;
    }
    return &runtimes.emplace(device, std::move(*opened)).first->second;
}

} // namespace

extern "C" {

struct upm_cuda_torch_counts { // NOLINT(readability-identifier-naming): of C
    unsigned long long blocks, extents, merged, published, already, refused, different, bytes;
};

// nullptr: PyTorch reports that it is out of memory.
UPM_API void *upm_cuda_torch_malloc(ssize_t size, int device, void * /*stream*/) {
    Blocks &all = blocks();
    const std::lock_guard<std::mutex> guard(all.lock);
    const Runtime *const gpu = size > 0 ? runtime(device) : nullptr;
    if (gpu == nullptr)
        return nullptr;
    const auto bytes = static_cast<std::size_t>(size);
    const std::size_t unit = gpu->granularity();
    const std::size_t extent =
        bytes < kLargeExtent ? unit : std::max(unit, kLargeExtent / unit * unit);
    upm::Result<Buffer> made =
        Buffer::allocate(*gpu, bytes, {.extent_bytes = extent, .name = "torch"});
    if (!made)
        return nullptr;
    const Address address = made->address();
    all.buffers.emplace(address, std::move(*made));
    return reinterpret_cast<void *>(address);
}

UPM_API void upm_cuda_torch_free(void *pointer, ssize_t /*size*/, int /*device*/,
                                 void * /*stream*/) {
    Buffer dying;
    {
        Blocks &all = blocks();
        const std::lock_guard<std::mutex> guard(all.lock);
        const auto found = all.buffers.find(reinterpret_cast<Address>(pointer));
        if (found == all.buffers.end())
            return;
        dying = std::move(found->second);
        all.buffers.erase(found);
    }
}

// Advises every block that is allocated now. 0 or an errno, that of the first that
// failed; its text is in upm_cuda_torch_error(). `counts` may be null.
UPM_API int upm_cuda_torch_advise(upm_cuda_torch_counts *counts) {
    Blocks &all = blocks();
    const std::lock_guard<std::mutex> guard(all.lock);
    upm_cuda_torch_counts sum = {};
    int error = 0;
    for (auto &[address, buffer] : all.buffers) {
        const upm::Result<AdviseCounts> done = buffer.advise();
        error = error != 0 ? error : done.error();
        ++sum.blocks;
        sum.extents += done->extents;
        sum.merged += done->merged;
        sum.published += done->published;
        sum.already += done->already;
        sum.refused += done->refused;
        sum.different += done->different;
        sum.bytes += done->bytes;
        if (error != 0)
            break;
    }
    if (counts != nullptr)
        *counts = sum;
    return error;
}

// Before work of PyTorch's writes to [pointer, pointer + size). 0 or an errno.
UPM_API int upm_cuda_torch_will_write(const void *pointer, size_t size) {
    return will_write(reinterpret_cast<Address>(pointer), size).error();
}

UPM_API const char *upm_cuda_torch_error() {
    return last_error();
}
}
