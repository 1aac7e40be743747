// SPDX-License-Identifier: MIT
//
// Where the time of an operation goes: each driver call of the library, counted and timed.
// Its own times come on top of the others', so the sums are of one run and of no other.
#include "cuda-cow/measure/measure.hpp"

#include <map>
#include <mutex>

namespace upm::cuda::measure {

namespace {

struct CallTimes {
    unsigned count = 0;
    double micros = 0;
};

std::mutex times_lock;
std::map<std::string, CallTimes> times;

// What stands in the driver's table in the place of one call.
template <int id, class... Arguments>
struct Timed {
    static inline abi::Status (*real)(Arguments...) = nullptr;
    static inline const char *name = "";

    static abi::Status call(Arguments... arguments) {
        const auto since = Clock::now();
        const abi::Status status = real(arguments...);
        const double took = micros(since);
        const std::lock_guard<std::mutex> guard(times_lock);
        CallTimes &mine = times[name];
        ++mine.count;
        mine.micros += took;
        return status;
    }
};

template <int id, class... Arguments>
void time_calls(abi::Status (*&slot)(Arguments...), const char *name) {
    if (slot == nullptr)
        return;
    Timed<id, Arguments...>::real = slot;
    Timed<id, Arguments...>::name = name;
    slot = &Timed<id, Arguments...>::call;
}

void time_all_calls(DriverApi &api) {
// NOLINTNEXTLINE(bugprone-macro-parentheses): a member
#define UPM_CUDA_TIME(member, symbol, parameters) time_calls<__COUNTER__>(api.member, #symbol);
    UPM_CUDA_DRIVER_CALLS(UPM_CUDA_TIME)
#undef UPM_CUDA_TIME
}

// The operation's time and that of each call in it.
template <class Work>
json profile_of(Work &&work) {
    {
        const std::lock_guard<std::mutex> guard(times_lock);
        times.clear();
    }
    const auto since = Clock::now();
    work();
    json result{{"all_us", micros(since)}, {"calls", json::object()}};
    const std::lock_guard<std::mutex> guard(times_lock);
    double sum = 0;
    for (const auto &[name, one] : times) {
        result["calls"][name] = {{"count", one.count}, {"us", one.micros}};
        sum += one.micros;
    }
    result["in_calls_us"] = sum;
    return result;
}

// Of one size of extents: the second round, when everything has been done once.
json profile_extents(const Runtime &runtime, std::size_t bytes, std::size_t extent) {
    const RuntimeImpl &gpu = *runtime.shared();
    json result;
    for (unsigned round = 1; round <= 2; ++round) {
        const BufferOptions options{.extent_bytes = extent, .name = "profiled"};
        Buffer one = must(Buffer::allocate(runtime, bytes, options), "allocate");
        Buffer two = must(Buffer::allocate(runtime, bytes, options), "allocate");
        fill(gpu, one, round);
        fill(gpu, two, round);
        result["advise_new"] = profile_of([&] { (void)must(one.advise(), "advise"); });
        result["advise_known"] = profile_of([&] { (void)must(two.advise(), "advise"); });
        const Manifest manifest = must(one.manifest(), "manifest");
        Buffer three;
        result["attach"] =
            profile_of([&] { three = must(Buffer::attach(runtime, manifest), "attach"); });
        result["first_write"] = profile_of([&] { (void)must(three.will_write(0, 1), "write"); });
        result["second_write"] =
            profile_of([&] { (void)must(three.will_write(extent, 1), "write"); });
        result["write_all"] =
            profile_of([&] { (void)must(three.will_write(0, three.size()), "write"); });
        result["free"] = profile_of([&] { three = Buffer(); });
    }
    return result;
}

} // namespace

void profile(const Runtime &runtime, const Job &job, Report &report) {
    time_all_calls(runtime.shared()->api);
    for (const std::size_t extent : {job.extent, runtime.granularity()})
        report.put(std::to_string(extent),
                   profile_extents(runtime, std::min(job.bytes, 64 * extent), extent));
}

} // namespace upm::cuda::measure
