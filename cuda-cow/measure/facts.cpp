// SPDX-License-Identifier: MIT
//
// What is true of the driver and the device: things that the design relies on, or could.
#include "cuda-cow/measure/measure.hpp"

#include <algorithm>
#include <thread>
#include <unistd.h>

namespace upm::cuda::measure {

namespace {

// How many bytes of new memory are not zero. Leaves 0x5a in it.
std::size_t dirty_bytes(const RuntimeImpl &gpu, std::size_t bytes) {
    abi::Handle handle = 0;
    Window window(gpu);
    std::vector<unsigned char> now(bytes);
    if (gpu.create(bytes, handle) != 0 ||
        window.open({handle}, {bytes}, abi::kAccessReadWrite) != 0)
        die("memory");
    const abi::DevicePtr at = window.pieces()[0].address;
    must(gpu, gpu.api.memcpy_dtoh(now.data(), at, bytes), "cuMemcpyDtoH");
    must(gpu, gpu.api.memset_d8(at, 0x5a, bytes), "cuMemsetD8");
    must(gpu, gpu.api.ctx_synchronize(), "cuCtxSynchronize");
    (void)window.close();
    (void)gpu.api.mem_release(handle);
    return bytes - static_cast<std::size_t>(std::count(now.begin(), now.end(), 0));
}

} // namespace

void machine(const Runtime &runtime, const Job & /*job*/, Report &report) {
    const RuntimeImpl &gpu = *runtime.shared();
    const CurrentContext current(gpu);
    char name[256] = {};
    int version = 0;
    std::size_t available = 0;
    std::size_t total = 0;
    std::size_t recommended = 0;
    char host[128] = {};
    (void)::gethostname(host, sizeof host - 1);
    report.put("fake", gpu.api.fake());
    report.put("host", host);
    (void)gpu.api.device_name(name, sizeof name, gpu.device);
    report.put("gpu", name);
    (void)gpu.api.driver_version(&version);
    report.put("driver_version", version);
    (void)gpu.api.mem_info(&available, &total);
    report.put("gpu_bytes", total);
    const abi::MemAllocationProp prop = gpu.properties();
    (void)gpu.api.granularity(&recommended, &prop, abi::kGranularityRecommended);
    report.put("granularity", gpu.granularity);
    report.put("granularity_recommended", recommended);
    report.put("hashing", gpu.hasher->name());
}

// If it is zero, buffers need not be cleared.
void fresh_memory(const Runtime &runtime, const Job & /*job*/, Report &report) {
    const RuntimeImpl &gpu = *runtime.shared();
    const CurrentContext current(gpu);
    for (const char *when : {"first", "after_it_was_written_and_freed"}) {
        const std::size_t bytes = 32 * gpu.granularity;
        report.put(when, {{"bytes", bytes}, {"not_zero", dirty_bytes(gpu, bytes)}});
    }
}

// Needed to offer to a new broker what came from a lost one.
void export_again(const Runtime &runtime, const Job & /*job*/, Report &report) {
    const RuntimeImpl &gpu = *runtime.shared();
    const CurrentContext current(gpu);
    abi::Handle handle = 0;
    abi::Handle imported = 0;
    int fd = -1;
    int again = -1;
    if (gpu.create(gpu.granularity, handle) != 0)
        die("memory");
    must(gpu, gpu.api.mem_export(&fd, handle, abi::kHandlePosixFd, 0), "export");
    must(gpu,
         gpu.api.mem_import(&imported, reinterpret_cast<void *>(std::intptr_t{fd}),
                            abi::kHandlePosixFd),
         "import");
    report.put("same_handle", imported == handle);
    report.put("status", gpu.api.mem_export(&again, imported, abi::kHandlePosixFd, 0));
    for (const int one : {fd, again})
        if (one >= 0)
            ::close(one);
    (void)gpu.api.mem_release(imported);
    (void)gpu.api.mem_release(handle);
}

// Remapping somewhere else while a kernel runs: does it wait for the kernel?
void under_work(const Runtime &runtime, const Job & /*job*/, Report &report) {
    const RuntimeImpl &gpu = *runtime.shared();
    const CurrentContext current(gpu);
    const Probes probes(gpu.api, gpu.stream);
    const std::size_t unit = gpu.granularity;
    if (!probes.there() || gpu.api.stream_query == nullptr) {
        report.put("there", false);
        return;
    }
    abi::Handle handles[2] = {};
    for (abi::Handle &handle : handles)
        if (gpu.create(unit, handle) != 0)
            die("memory");
    {
        Window read(gpu);
        if (read.open({handles[0]}, {unit}, abi::kAccessReadWrite) != 0)
            die("memory");
        must(gpu, probes.spin(read.pieces()[0].address, 1), "warm up");
        must(gpu, gpu.api.stream_synchronize(gpu.stream), "warm up");
        constexpr unsigned kMilliseconds = 200;
        must(gpu, probes.spin(read.pieces()[0].address, kMilliseconds), "spin");
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
        const auto since = Clock::now();
        Window other(gpu);
        if (other.open({handles[1]}, {unit}, abi::kAccessReadWrite) != 0 ||
            gpu.set_access(other.pieces()[0], abi::kAccessRead) != 0 || other.close() != 0)
            die("remapping under work");
        report.put("kernel_ms", kMilliseconds);
        report.put("map_protect_unmap_us", micros(since));
        report.put("kernel_still_ran", gpu.api.stream_query(gpu.stream) == abi::kNotReady);
        report.put("status", gpu.api.stream_synchronize(gpu.stream));
    }
    for (const abi::Handle handle : handles)
        (void)gpu.api.mem_release(handle);
}

} // namespace upm::cuda::measure
