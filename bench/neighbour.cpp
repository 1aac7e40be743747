// SPDX-License-Identifier: MIT
#include "bench/cases.hpp"
#include "bench/error.hpp"
#include "bench/process.hpp"
#include "bench/sysfs.hpp"
#include "bench/timing.hpp"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <functional>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

namespace upm::bench {

namespace {

constexpr std::size_t kOwnBytes = 16 * kMib; // that are touched again and again
constexpr std::size_t kMost = 4'000'000;     // faults that are kept of a step
constexpr int kOwnCpu = 0;
constexpr int kOtherCpu = 1;

// What this thread starts from here on stays on that processor, and so does it.
void stay_on(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (::sched_setaffinity(0, sizeof(set), &set) != 0)
        throw Error("two processors are needed", errno);
}

// Page faults of this process on its own memory, each timed.
class Faults {
  public:
    Faults() : memory_(kOwnBytes, Pages::kSmall) { took_.reserve(kMost); }

    // Faults until `done`, which is asked after each kOwnBytes.
    nlohmann::json until(const std::function<bool()> &done) {
        took_.clear();
        const Stopwatch watch;
        do
            touch_all();
        while (!done());
        const Timing timing = watch.elapsed();
        std::sort(took_.begin(), took_.end());
        return {{"pages", took_.size()},      {"wall_ns", timing.wall_ns},
                {"cpu_ns", timing.cpu_ns},    {"p50_ns", at(0.5)},
                {"p99_ns", at(0.99)},         {"p999_ns", at(0.999)},
                {"longest_ns", took_.back()}, {"clock_ns", clock_cost()}};
    }

    [[nodiscard]] std::size_t count() const noexcept { return took_.size(); }

  private:
    void touch_all() {
        volatile std::byte *const data = memory_.data();
        for (std::size_t at = 0; at < kOwnBytes && took_.size() < kMost; at += kPage) {
            const std::uint64_t before = monotonic_ns();
            data[at] = std::byte{1};
            took_.push_back(monotonic_ns() - before);
        }
        if (::madvise(memory_.data(), kOwnBytes, MADV_DONTNEED) != 0)
            throw Error("cannot give memory back", errno);
    }

    [[nodiscard]] std::uint64_t at(double share) const {
        return took_[static_cast<std::size_t>(share * static_cast<double>(took_.size() - 1))];
    }

    // What the clock itself adds to each: the median of 1001 tries.
    static std::uint64_t clock_cost() {
        std::vector<std::uint64_t> found;
        for (int i = 0; i < 1001; ++i) {
            const std::uint64_t before = monotonic_ns();
            found.push_back(monotonic_ns() - before);
        }
        std::sort(found.begin(), found.end());
        return found[found.size() / 2];
    }

    Region memory_;
    std::vector<std::uint64_t> took_;
};

// Faults while a process reads all of its memory, again and again.
nlohmann::json beside_reader(Faults &faults, Process &process, std::size_t wanted) {
    process.begin(Action::kVerify);
    nlohmann::json row = faults.until([&] {
        if (faults.count() >= wanted)
            return true;
        if (process.ready()) {
            (void)process.finish();
            process.begin(Action::kVerify);
        }
        return false;
    });
    (void)process.finish();
    return row;
}

// Faults while a process does something once.
nlohmann::json beside(Faults &faults, Process &process, Action action) {
    process.begin(action);
    nlohmann::json row = faults.until([&] { return process.ready(); });
    const Reply reply = process.finish();
    row["beside_wall_ns"] = reply.timing.wall_ns;
    row["beside_pages"] = reply.counts.merged + reply.counts.inserted;
    return row;
}

nlohmann::json run_neighbour(const Setup &setup) {
    // Enough for a 99th percentile: as many as there are while 1 GiB is merged.
    const std::size_t wanted = setup.mib * 200;
    nlohmann::json row;
    {
        Faults faults;
        const auto alone = [&] { return faults.until([&] { return faults.count() >= wanted; }); };
        stay_on(kOtherCpu);
        Process first(setup.mib * kMib, setup.pages, Order::kSame);
        Process second(setup.mib * kMib, setup.pages, setup.order);
        stay_on(kOwnCpu);
        first.ask(Action::kConnect);
        second.ask(Action::kConnect);
        row["reading"] = beside_reader(faults, first, wanted);
        row["alone"] = alone();
        row["insert"] = beside(faults, first, Action::kAdvise);
        row["merge"] = beside(faults, second, Action::kAdvise);
        row["alone_again"] = alone();
    }
    forget_shared_pages();
    return row;
}

} // namespace

nlohmann::json measure_neighbour(const Setup &setup) {
    return measure_runs(setup, [&] { return run_neighbour(setup); });
}

} // namespace upm::bench
