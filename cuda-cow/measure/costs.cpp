// SPDX-License-Identifier: MIT
//
// What driver calls, kernels and the hook cost.
#include "cuda-cow/hook/guard.hpp"
#include "cuda-cow/kernels/reference.hpp"
#include "cuda-cow/measure/measure.hpp"

#include <algorithm>
#include <array>
#include <map>
#include <unistd.h>

namespace upm::cuda::measure {

namespace {

class Timer {
  public:
    explicit Timer(const RuntimeImpl &gpu) : gpu_(gpu) {}
    template <class Call>
    void time(const char *name, Call &&call) {
        const auto since = Clock::now();
        const abi::Status status = call();
        times_[name].push_back(micros(since));
        must(gpu_, status, name);
    }
    void add(const char *name, double value) { times_[name].push_back(value); }
    [[nodiscard]] json medians() const {
        json result;
        for (const auto &[name, values] : times_)
            result[name] = median(values);
        return result;
    }

  private:
    const RuntimeImpl &gpu_;
    std::map<std::string, std::vector<double>> times_;
};

abi::Status set_access(const RuntimeImpl &gpu, abi::DevicePtr at, std::size_t bytes, int access) {
    const abi::MemAccessDesc wanted{{abi::kLocationDevice, gpu.device}, access};
    return gpu.api.mem_set_access(at, bytes, &wanted, 1);
}

// Memory in two halves of extents, to hash, compare and copy.
struct Halves {
    Halves(const RuntimeImpl &runtime, const Job &job) : gpu(runtime), window(runtime) {
        const std::size_t count =
            std::clamp<std::size_t>(job.bytes / job.extent / 2, 1, broker::kMaxItems / 2);
        const std::vector<std::size_t> sizes(2 * count, job.extent);
        for (std::size_t i = 0; i < sizes.size(); ++i)
            if (gpu.create(job.extent, handles.emplace_back()) != 0)
                die("memory to hash");
        if (window.open(handles, sizes, abi::kAccessReadWrite) != 0)
            die("memory to hash");
        for (std::size_t i = 0; i < sizes.size(); ++i) {
            const Piece &piece = window.pieces()[i];
            must(gpu, gpu.api.memset_d8_async(piece.address, 1, piece.bytes, gpu.stream), "fill");
            if (i < count)
                first.push_back(piece);
            else
                second.push_back(piece.address);
        }
        if (gpu.drain("filling") != 0)
            die("filling");
        bytes = count * job.extent;
    }
    Halves(const Halves &) = delete;
    Halves &operator=(const Halves &) = delete;
    ~Halves() {
        (void)window.close();
        for (const abi::Handle handle : handles)
            (void)gpu.api.mem_release(handle);
    }
    [[nodiscard]] abi::Status copy() const {
        for (std::size_t i = 0; i < first.size(); ++i)
            if (const abi::Status status = gpu.api.memcpy_dtod_async(second[i], first[i].address,
                                                                     first[i].bytes, gpu.stream);
                status != abi::kSuccess)
                return status;
        return abi::kSuccess;
    }

    const RuntimeImpl &gpu;
    Window window;
    std::vector<abi::Handle> handles;
    std::vector<Piece> first;
    std::vector<abi::DevicePtr> second;
    std::size_t bytes = 0; // of a half
};

// What the memory could do at best, 0 if the driver does not tell.
double peak(const RuntimeImpl &gpu) {
    constexpr int kMemoryClockKhz = 36;
    constexpr int kBusBits = 37;
    int clock = 0;
    int bits = 0;
    if (gpu.api.device_attribute(&clock, kMemoryClockKhz, gpu.device) != abi::kSuccess ||
        gpu.api.device_attribute(&bits, kBusBits, gpu.device) != abi::kSuccess)
        return 0;
    return 2.0 * clock * 1000 * bits / 8; // double data rate
}

// Median of several runs, since other programs disturb. `tracked` of the eight pointers
// are in shared memory, and read.
double launch_nanoseconds(const Buffer &buffer, unsigned tracked, unsigned function_number) {
    const cuda::hook::Inspector inspector{
        [](const char **name, abi::Function) {
            *name = "_Z1fPKfS0_S0_S0_S0_S0_S0_S0_";
            return abi::kSuccess;
        },
        [](abi::Function, std::size_t index, std::size_t *offset, std::size_t *size) {
            *offset = index * 8;
            *size = 8;
            return index < 8 ? abi::kSuccess : abi::kInvalidValue;
        },
        nullptr, nullptr,
        [](abi::Device *device) {
            *device = 0;
            return abi::kSuccess;
        }};
    std::array<Address, 8> values{};
    std::array<void *, 8> parameters{};
    for (std::size_t i = 0; i < values.size(); ++i) {
        values[i] = i < tracked ? buffer.address() + i : 0x1000 + i;
        parameters[i] = &values[i];
    }
    auto *const function = reinterpret_cast<abi::Function>(std::uintptr_t{function_number} << 4);
    constexpr unsigned kLaunches = 100000;
    std::vector<double> runs;
    for (unsigned run = 0; run < 11; ++run) {
        const auto since = Clock::now();
        for (unsigned i = 0; i < kLaunches; ++i)
            const cuda::hook::Guard guard(inspector, function, parameters.data(), nullptr, nullptr);
        runs.push_back(micros(since) * 1000 / kLaunches);
    }
    return median(runs);
}

json call_costs(const RuntimeImpl &gpu, std::size_t bytes, unsigned rounds) {
    const CurrentContext current(gpu);
    const DriverApi &api = gpu.api;
    Timer timer(gpu);
    const abi::MemAllocationProp prop = gpu.properties();
    for (unsigned round = 0; round < rounds; ++round) {
        abi::Handle handle = 0;
        abi::Handle imported = 0;
        abi::DevicePtr at = 0;
        int fd = -1;
        timer.time("create", [&] { return api.mem_create(&handle, bytes, &prop, 0); });
        timer.time("reserve", [&] { return api.mem_reserve(&at, bytes, 0, 0, 0); });
        timer.time("map", [&] { return api.mem_map(at, bytes, 0, handle, 0); });
        timer.time("set_access_rw",
                   [&] { return set_access(gpu, at, bytes, abi::kAccessReadWrite); });
        timer.time("set_access_ro", [&] { return set_access(gpu, at, bytes, abi::kAccessRead); });
        timer.time("export", [&] { return api.mem_export(&fd, handle, abi::kHandlePosixFd, 0); });
        timer.time("import", [&] {
            return api.mem_import(&imported, reinterpret_cast<void *>(std::intptr_t{fd}),
                                  abi::kHandlePosixFd);
        });
        ::close(fd);
        must(gpu, api.mem_release(imported), "release");
        timer.time("unmap", [&] { return api.mem_unmap(at, bytes); });
        timer.time("unreserve", [&] { return api.mem_unreserve(at, bytes); });
        timer.time("release", [&] { return api.mem_release(handle); });
    }
    return timer.medians();
}

// Calls that span `count` mappings of the smallest size.
json batch_costs(const RuntimeImpl &gpu, std::size_t count, unsigned rounds) {
    const CurrentContext current(gpu);
    const DriverApi &api = gpu.api;
    const std::size_t unit = gpu.granularity;
    Timer timer(gpu);
    std::vector<abi::Handle> handles(count);
    for (abi::Handle &handle : handles)
        if (gpu.create(unit, handle) != 0)
            die("memory for a batch");
    abi::DevicePtr at = 0;
    must(gpu, api.mem_reserve(&at, count * unit, 0, 0, 0), "reserve");
    bool spans = true;
    for (unsigned round = 0; round < rounds; ++round) {
        timer.time("map_all", [&] {
            abi::Status status = abi::kSuccess;
            for (std::size_t i = 0; i < count && status == abi::kSuccess; ++i)
                status = api.mem_map(at + i * unit, unit, 0, handles[i], 0);
            return status;
        });
        timer.time("set_access_rw",
                   [&] { return set_access(gpu, at, count * unit, abi::kAccessReadWrite); });
        timer.time("set_access_ro",
                   [&] { return set_access(gpu, at, count * unit, abi::kAccessRead); });
        timer.time("unmap", [&] {
            if (spans && api.mem_unmap(at, count * unit) == abi::kSuccess)
                return abi::kSuccess;
            spans = false;
            abi::Status status = abi::kSuccess;
            for (std::size_t i = 0; i < count && status == abi::kSuccess; ++i)
                status = api.mem_unmap(at + i * unit, unit);
            return status;
        });
    }
    must(gpu, api.mem_unreserve(at, count * unit), "unreserve");
    for (const abi::Handle handle : handles)
        must(gpu, api.mem_release(handle), "release");
    json result = timer.medians();
    result["unmap_takes_them_at_once"] = spans;
    return result;
}

} // namespace

void calls(const Runtime &runtime, const Job &job, Report &report) {
    const RuntimeImpl &gpu = *runtime.shared();
    for (const std::size_t units : {1UL, 8UL, 32UL})
        report.put(std::to_string(units * gpu.granularity),
                   call_costs(gpu, units * gpu.granularity, job.rounds));
}

void batches(const Runtime &runtime, const Job &job, Report &report) {
    for (const std::size_t count : {1UL, 8UL, 64UL})
        report.put(std::to_string(count), batch_costs(*runtime.shared(), count, job.rounds));
}

// A first write with memory that is made, and mapped somewhere, beforehand: what will_write
// would cost with a pool of such extents.
void spare(const Runtime &runtime, const Job &job, Report &report) {
    const RuntimeImpl &gpu = *runtime.shared();
    const CurrentContext current(gpu);
    const DriverApi &api = gpu.api;
    for (const std::size_t units : {1UL, 8UL, 32UL}) {
        const std::size_t bytes = units * gpu.granularity;
        abi::Handle shared = 0;
        std::vector<abi::Handle> pool(std::min(job.rounds, 16U));
        Window place(gpu);
        Window spares(gpu);
        if (gpu.create(bytes, shared) != 0)
            die("memory");
        for (abi::Handle &handle : pool)
            if (gpu.create(bytes, handle) != 0)
                die("spare memory");
        if (place.open({shared}, {bytes}, abi::kAccessRead) != 0 ||
            spares.open(pool, std::vector(pool.size(), bytes), abi::kAccessReadWrite) != 0)
            die("mapping spare memory");
        const abi::DevicePtr at = place.pieces()[0].address;
        Timer timer(gpu);
        for (std::size_t i = 0; i < pool.size(); ++i) {
            const auto since = Clock::now();
            timer.time("copy", [&] {
                const abi::Status status =
                    api.memcpy_dtod_async(spares.pieces()[i].address, at, bytes, gpu.stream);
                return status != abi::kSuccess ? status : api.stream_synchronize(gpu.stream);
            });
            timer.time("unmap", [&] { return api.mem_unmap(at, bytes); });
            timer.time("map", [&] { return api.mem_map(at, bytes, 0, pool[i], 0); });
            timer.time("set_access",
                       [&] { return set_access(gpu, at, bytes, abi::kAccessReadWrite); });
            timer.add("first_write", micros(since));
        }
        report.put(std::to_string(bytes), timer.medians());
        (void)spares.close();
        (void)place.close();
        for (const abi::Handle handle : pool)
            (void)api.mem_release(handle);
        (void)api.mem_release(shared);
    }
}

// Bytes per second that are read, or read and written, by the device's own clock.
void bandwidth(const Runtime &runtime, const Job &job, Report &report) {
    const RuntimeImpl &gpu = *runtime.shared();
    const CurrentContext current(gpu);
    const Halves halves(gpu, job);
    GpuTimer timer(gpu);
    report.put("bytes", halves.bytes);
    report.put("timer", timer.kind());
    report.put("peak_bytes_per_second", peak(gpu));
    std::map<std::string, std::vector<double>> times;
    for (unsigned round = 0; round < job.rounds; ++round) {
        std::vector<Tag> tags;
        std::vector<bool> different;
        times["tag"].push_back(timer.time_kernels(
            [&] { return gpu.hasher->tag(halves.first, make_keys(1, 2), tags); }, "tag"));
        times["compare"].push_back(timer.time_kernels(
            [&] { return gpu.hasher->compare(halves.first, halves.second, different); },
            "compare"));
        times["copy"].push_back(timer.time([&] { return halves.copy(); }, "copy"));
    }
    const auto bytes = static_cast<double>(halves.bytes);
    report.put("tag_bytes_per_second", bytes / median(times["tag"]) * 1e6);
    report.put("compare_bytes_per_second", 2 * bytes / median(times["compare"]) * 1e6);
    report.put("copy_bytes_per_second", 2 * bytes / median(times["copy"]) * 1e6);
}

// What a launch with eight pointers pays for the hook.
void hook(const Runtime &runtime, const Job & /*job*/, Report &report) {
    Buffer buffer = must(Buffer::allocate(runtime, 1), "allocate");
    fill(*runtime.shared(), buffer, 200);
    (void)must(buffer.advise(), "advise");
    report.put("none_tracked_ns", launch_nanoseconds(buffer, 0, 1));
    report.put("two_tracked_ns", launch_nanoseconds(buffer, 2, 2));
    report.put("all_tracked_ns", launch_nanoseconds(buffer, 8, 3));
}

} // namespace upm::cuda::measure
