// SPDX-License-Identifier: MIT
//
// Other ways to arrange the driver calls of an advise and of a first write, and what they
// would gain.
#include "cuda-cow/measure/measure.hpp"

#include <algorithm>
#include <array>
#include <functional>
#include <map>
#include <thread>
#include <unistd.h>

namespace upm::cuda::measure {

namespace {

// Memory of `count` extents, side by side.
struct Extents {
    Extents(const RuntimeImpl &runtime, std::size_t how_many, std::size_t size)
        : gpu(runtime), count(how_many), bytes(size), handles(how_many) {
        must(gpu, gpu.api.mem_reserve(&at, count * bytes, 0, 0, 0), "reserve");
        create();
    }
    Extents(const Extents &) = delete;
    Extents &operator=(const Extents &) = delete;
    ~Extents() {
        release(0, count);
        must(gpu, gpu.api.mem_unreserve(at, count * bytes), "unreserve");
    }
    void create() {
        for (abi::Handle &handle : handles)
            if (handle == 0 && gpu.create(bytes, handle) != 0)
                die("memory");
    }
    void release(std::size_t first, std::size_t end) {
        for (std::size_t i = first; i < end; ++i)
            if (handles[i] != 0)
                must(gpu, gpu.api.mem_release(std::exchange(handles[i], 0)), "release");
    }
    void map() const {
        for (std::size_t i = 0; i < count; ++i)
            must(gpu, gpu.api.mem_map(at + i * bytes, bytes, 0, handles[i], 0), "map");
    }
    void access(std::size_t first, std::size_t end, int flags) const {
        if (gpu.set_access({at + first * bytes, (end - first) * bytes}, flags) != 0)
            die("access");
    }
    void unmap(std::size_t first, std::size_t end) const {
        must(gpu, gpu.api.mem_unmap(at + first * bytes, (end - first) * bytes), "unmap");
    }

    const RuntimeImpl &gpu;
    const std::size_t count;
    const std::size_t bytes;
    std::vector<abi::Handle> handles;
    abi::DevicePtr at = 0;
};

double timed(const std::function<void()> &work) {
    const auto since = Clock::now();
    work();
    return micros(since);
}

using Part = std::function<void(std::size_t first, std::size_t end)>;

// The parts of `count` done by so many threads at once.
double by_threads(const RuntimeImpl &gpu, std::size_t count, unsigned threads, const Part &part) {
    const std::size_t each = count / threads;
    return timed([&] {
        std::vector<std::thread> all;
        for (unsigned i = 1; i < threads; ++i)
            all.emplace_back([&, i] {
                const CurrentContext current(gpu);
                part(i * each, (i + 1) * each);
            });
        part(0, each);
        for (std::thread &one : all)
            one.join();
    });
}

// Remapping 64 extents: access, unmapping and release, by one thread and by several.
json threads(const RuntimeImpl &gpu, std::size_t bytes) {
    Extents all(gpu, 64, bytes);
    json result;
    for (const unsigned threads : {1U, 2U, 4U}) {
        json row;
        for (unsigned round = 0; round < 2; ++round) { // the second counts
            all.create();
            all.map();
            const auto access = [&](int flags) {
                return by_threads(gpu, all.count, threads, [&](std::size_t first, std::size_t end) {
                    all.access(first, end, flags);
                });
            };
            row["first_access_read_only"] = access(abi::kAccessRead);
            row["then_writable"] = access(abi::kAccessReadWrite);
            row["then_read_only"] = access(abi::kAccessRead);
            row["read_only_again"] = access(abi::kAccessRead);
            row["unmap"] =
                by_threads(gpu, all.count, threads,
                           [&](std::size_t first, std::size_t end) { all.unmap(first, end); });
            row["release"] =
                by_threads(gpu, all.count, threads,
                           [&](std::size_t first, std::size_t end) { all.release(first, end); });
        }
        result[std::to_string(threads)] = row;
    }
    return result;
}

// Release by one thread while another changes access: how long both take together.
json release_beside(const RuntimeImpl &gpu, std::size_t bytes) {
    Extents mapped(gpu, 64, bytes);
    Extents released(gpu, 64, bytes);
    mapped.map();
    mapped.access(0, 64, abi::kAccessReadWrite);
    json result;
    for (unsigned round = 0; round < 2; ++round) {
        released.create();
        result["access_us"] = timed([&] { mapped.access(0, 64, abi::kAccessRead); });
        result["release_us"] = timed([&] { released.release(0, 64); });
        released.create();
        result["both_us"] = timed([&] {
            std::thread other([&] {
                const CurrentContext current(gpu);
                released.release(0, 64);
            });
            mapped.access(0, 64, abi::kAccessReadWrite);
            other.join();
        });
    }
    mapped.unmap(0, 64);
    return result;
}

// One extent mapped, made accessible and unmapped, at new addresses and at those of before;
// `whole`: one release while a kernel runs, which it may wait for.
json addresses(const RuntimeImpl &gpu, std::size_t bytes, unsigned rounds) {
    std::map<std::string, std::vector<double>> times;
    abi::Handle handle = 0;
    abi::DevicePtr kept = 0;
    if (gpu.create(bytes, handle) != 0)
        die("memory");
    must(gpu, gpu.api.mem_reserve(&kept, bytes, 0, 0, 0), "reserve");
    for (unsigned round = 0; round < rounds; ++round) {
        for (const std::string where : {"new", "kept"}) {
            const auto since = Clock::now();
            abi::DevicePtr at = kept;
            if (where == "new")
                must(gpu, gpu.api.mem_reserve(&at, bytes, 0, 0, 0), "reserve");
            must(gpu, gpu.api.mem_map(at, bytes, 0, handle, 0), "map");
            times[where + "_access"].push_back(timed([&] {
                if (gpu.set_access({at, bytes}, abi::kAccessReadWrite) != 0)
                    die("access");
            }));
            times[where + "_unmap"].push_back(
                timed([&] { must(gpu, gpu.api.mem_unmap(at, bytes), "unmap"); }));
            if (where == "new")
                must(gpu, gpu.api.mem_unreserve(at, bytes), "unreserve");
            times[where + "_all"].push_back(micros(since));
        }
    }
    must(gpu, gpu.api.mem_unreserve(kept, bytes), "unreserve");
    must(gpu, gpu.api.mem_release(handle), "release");
    json result;
    for (const auto &[name, values] : times)
        result[name] = median(values);
    return result;
}

// Exports one after the other, while the others are alive and after all are closed again.
json exports(const RuntimeImpl &gpu, std::size_t bytes) {
    json result;
    for (unsigned round = 0; round < 2; ++round) {
        const Extents all(gpu, 64, bytes);
        std::vector<double> each;
        std::vector<int> fds;
        for (const abi::Handle handle : all.handles)
            each.push_back(timed([&] {
                must(gpu, gpu.api.mem_export(&fds.emplace_back(-1), handle, abi::kHandlePosixFd, 0),
                     "export");
            }));
        const double again = timed([&] {
            must(gpu,
                 gpu.api.mem_export(&fds.emplace_back(-1), all.handles[0], abi::kHandlePosixFd, 0),
                 "export");
        });
        const double closing = timed([&] {
            for (const int fd : fds)
                ::close(fd);
        });
        result = {{"first", each.front()},
                  {"second", each[1]},
                  {"median", median(each)},
                  {"same_again", again},
                  {"close_all", closing}};
    }
    return result;
}

} // namespace

void trials(const Runtime &runtime, const Job &job, Report &report) {
    const RuntimeImpl &gpu = *runtime.shared();
    const CurrentContext current(gpu);
    for (const std::size_t bytes : {gpu.granularity, job.extent}) {
        const std::string size = std::to_string(bytes);
        report.put("addresses " + size, addresses(gpu, bytes, job.rounds));
        report.put("threads " + size, threads(gpu, bytes));
        report.put("release_beside " + size, release_beside(gpu, bytes));
        report.put("exports " + size, exports(gpu, bytes));
    }
    std::vector<double> idle;
    for (unsigned round = 0; round < job.rounds; ++round)
        idle.push_back(timed([&] { must(gpu, gpu.api.ctx_synchronize(), "cuCtxSynchronize"); }));
    report.put("synchronize_idle", median(idle));
}

} // namespace upm::cuda::measure
