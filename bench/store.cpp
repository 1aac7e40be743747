// SPDX-License-Identifier: MIT
//
// upm-bench-store: what the backend store costs next to memcmp and memcpy of as many
// bytes in the same run, how long writers wait for it, and stock KSM on the same
// data. Every process is a real one; the broker is one of its own.
//
//   build/bin/upm-bench-store --benchmark_out=FILE --benchmark_out_format=json
//   build/bin/upm-bench-store --sizes=20,40 ...          other sizes of BM_Insert, BM_Merge
//
// Sizes are in MiB. Counters "wall" and "cpu" are bandwidths as a share of that of
// the plain function: by the clock, and by the thread's processor time, which other
// work on the machine disturbs less. Both are of medians.
#include "bench/error.hpp"
#include "bench/ksmd.hpp"
#include "bench/process.hpp"
#include "bench/region.hpp"
#include "bench/store_broker.hpp"
#include "bench/store_pause.hpp"
#include "bench/timing.hpp"

#include <upm/upm.hpp>

#include <benchmark/benchmark.h>

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <sys/mman.h>
#include <vector>

namespace {

using namespace upm::bench;

constexpr std::size_t kReference = 256 * kMib; // far more than the caches
const StoreBroker *running = nullptr;

std::size_t size_of(const benchmark::State &state) {
    return static_cast<std::size_t>(state.range(0)) * kMib;
}

std::uint64_t median(std::vector<std::uint64_t> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

// The plain function on memory of its own, in each round beside what it is compared
// with; of at most 256 MiB, and then more often than once per round.
class Plain {
  public:
    Plain(std::size_t size, bool compare)
        : size_(size), compare_(compare), one_(std::min(size, kReference), Pages::kSmall),
          other_(std::min(size, kReference), Pages::kSmall) {
        one_.fill(Order::kSame);
        other_.fill(Order::kSame);
        // Else every process that is started would make its pages copy-on-write.
        for (const Region *each : {&one_, &other_})
            (void)::madvise(each->data(), each->size(), MADV_DONTFORK);
    }
    [[nodiscard]] Timing run() const {
        const Stopwatch watch;
        for (std::size_t done = 0; done < size_; done += one_.size()) {
            if (compare_)
                benchmark::DoNotOptimize(std::memcmp(one_.data(), other_.data(), one_.size()));
            else
                std::memcpy(one_.data(), other_.data(), one_.size());
            benchmark::ClobberMemory();
        }
        return watch.elapsed();
    }

  private:
    std::size_t size_;
    bool compare_;
    Region one_;
    Region other_;
};

class Rounds {
  public:
    void add(const Timing &plain, const Timing &ours) {
        plain_wall_.push_back(plain.wall_ns);
        plain_cpu_.push_back(plain.cpu_ns);
        wall_.push_back(ours.wall_ns);
        cpu_.push_back(ours.cpu_ns);
    }
    void finish(benchmark::State &state) const {
        const auto share = [](const auto &plain, const auto &ours) {
            return static_cast<double>(median(plain)) / static_cast<double>(median(ours));
        };
        state.counters["wall"] = share(plain_wall_, wall_);
        state.counters["cpu"] = share(plain_cpu_, cpu_);
        state.counters["plain_GBps"] =
            static_cast<double>(size_of(state)) / static_cast<double>(median(plain_wall_));
        state.counters["GBps"] =
            static_cast<double>(size_of(state)) / static_cast<double>(median(wall_));
        state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations()) *
                                static_cast<std::int64_t>(size_of(state)));
    }

  private:
    std::vector<std::uint64_t> plain_wall_;
    std::vector<std::uint64_t> plain_cpu_;
    std::vector<std::uint64_t> wall_;
    std::vector<std::uint64_t> cpu_;
};

// One that has its connection to the broker already.
struct Connected : Process {
    Connected(std::size_t size, Pages pages) : Process(size, pages, Order::kSame) {
        (void)ask(Action::kConnect);
    }
};

Timing advise(Process &process, std::uint64_t upm_counts::*field, std::size_t size) {
    const Reply reply = process.ask(Action::kAdvise);
    if (reply.counts.*field != size / kPage)
        throw Error("not all pages became what they should");
    return reply.timing;
}

// Names and loops are in the style of Google Benchmark.
// NOLINTBEGIN(readability-identifier-naming, clang-analyzer-deadcode.DeadStores)

// The first process of a kind: its content is new. The pages are those of the program's
// memory before; segments have huge ones where that pays.
void BM_Insert(benchmark::State &state, Pages pages) {
    const Plain plain(size_of(state), false);
    Rounds rounds;
    for (auto _ : state) {
        wait_until_empty();
        Connected process(size_of(state), pages);
        const Timing ours = advise(process, &upm_counts::inserted, size_of(state));
        rounds.add(plain.run(), ours);
        state.SetIterationTime(static_cast<double>(ours.wall_ns) / 1e9);
    }
    rounds.finish(state);
}

// Every later one. As the first call of a process it looks for the broker and connects.
void BM_Merge(benchmark::State &state, bool connected, Pages pages) {
    wait_until_empty();
    const Plain plain(size_of(state), true);
    Connected first(size_of(state), pages);
    (void)advise(first, &upm_counts::inserted, size_of(state));
    Rounds rounds;
    for (auto _ : state) {
        Process process(size_of(state), pages, Order::kSame);
        if (connected)
            (void)process.ask(Action::kConnect);
        const Timing ours = advise(process, &upm_counts::merged, size_of(state));
        rounds.add(plain.run(), ours);
        state.SetIterationTime(static_cast<double>(ours.wall_ns) / 1e9);
    }
    rounds.finish(state);
}

// How long a thread waits that writes to memory while it is merged or inserted:
// each page in turn, by one store. Only those stores count that had to wait.
void BM_WriterWaits(benchmark::State &state, bool merge) {
    std::vector<std::uint64_t> waits;
    for (auto _ : state) {
        wait_until_empty();
        std::optional<Process> first;
        if (merge) {
            first.emplace(size_of(state), Pages::kSmall, Order::kSame);
            (void)first->ask(Action::kAdvise);
        }
        const Timing taken = advise_under_writer(size_of(state), waits);
        state.SetIterationTime(static_cast<double>(taken.wall_ns) / 1e9);
    }
    std::sort(waits.begin(), waits.end());
    const auto at = [&](double part) {
        const auto index = static_cast<std::size_t>(part * static_cast<double>(waits.size()));
        return waits.empty()
                   ? 0.0
                   : static_cast<double>(waits[std::min(index, waits.size() - 1)]) / 1000.0;
    };
    state.counters["waits"] = static_cast<double>(waits.size());
    state.counters["p50_us"] = at(0.5);
    state.counters["p99_us"] = at(0.99);
    state.counters["max_us"] = at(1);
}

// Two processes until 90 % of what they can share is shared. Time by the clock, and
// the processor seconds of whoever does the work.
constexpr std::size_t kGoalPart = 90;

void BM_Ksm(benchmark::State &state, std::uint64_t pages_to_scan, std::uint64_t sleep_ms) {
    try {
        const Ksmd ksmd(pages_to_scan, sleep_ms);
        double cpu = 0;
        for (auto _ : state) {
            Process one(size_of(state), Pages::kSmall, Order::kSame);
            Process other(size_of(state), Pages::kSmall, Order::kSame);
            (void)one.ask(Action::kMarkForKsm);
            (void)other.ask(Action::kMarkForKsm);
            const Ksmd::Scan scan = ksmd.scan_until(size_of(state) / kPage * kGoalPart / 100);
            cpu += static_cast<double>(scan.cpu_ns) / 1e9;
            state.SetIterationTime(static_cast<double>(scan.wall_ns) / 1e9);
            Ksmd::forget();
        }
        state.counters["cpu_s"] = cpu / static_cast<double>(state.iterations());
    } catch (const Error &error) {
        state.SkipWithError(error.what());
    }
}

void BM_StoreLikeKsm(benchmark::State &state) {
    double cpu = 0;
    for (auto _ : state) {
        wait_until_empty();
        Process one(size_of(state), Pages::kSmall, Order::kSame);
        Process other(size_of(state), Pages::kSmall, Order::kSame);
        const std::uint64_t broker = running->cpu_ns();
        const Timing first = advise(one, &upm_counts::inserted, size_of(state));
        const Timing second = advise(other, &upm_counts::merged, size_of(state));
        cpu += static_cast<double>(first.cpu_ns + second.cpu_ns + running->cpu_ns() - broker) / 1e9;
        state.SetIterationTime(static_cast<double>(first.wall_ns + second.wall_ns) / 1e9);
    }
    state.counters["cpu_s"] = cpu / static_cast<double>(state.iterations());
}

// NOLINTEND(readability-identifier-naming, clang-analyzer-deadcode.DeadStores)

benchmark::internal::Benchmark *in_ms(benchmark::internal::Benchmark *each) {
    return each->UseManualTime()->Unit(benchmark::kMillisecond);
}

// The larger, the fewer.
std::int64_t rounds_of(std::int64_t mib) {
    constexpr std::int64_t kRounds[][2] = {{4, 20}, {16, 10}, {64, 7}, {256, 5}, {1024, 3}};
    for (const auto &[most, rounds] : kRounds)
        if (mib <= most)
            return rounds;
    return 2;
}

void add_sizes(const std::vector<std::int64_t> &sizes) {
    for (const std::int64_t mib : sizes) {
        const std::int64_t rounds = rounds_of(mib);
        for (const Pages pages : {Pages::kSmall, Pages::kHuge}) {
            const std::string suffix = pages == Pages::kHuge ? "Huge" : "";
            in_ms(benchmark::RegisterBenchmark(("BM_Insert" + suffix).c_str(), BM_Insert, pages))
                ->Arg(mib)
                ->Iterations(rounds);
            in_ms(
                benchmark::RegisterBenchmark(("BM_Merge" + suffix).c_str(), BM_Merge, true, pages))
                ->Arg(mib)
                ->Iterations(rounds);
        }
    }
    in_ms(benchmark::RegisterBenchmark("BM_MergeFirstCall", BM_Merge, false, Pages::kSmall))
        ->Arg(1)
        ->Arg(16)
        ->Iterations(10);
}

void add_others() {
    for (const bool merge : {false, true})
        in_ms(benchmark::RegisterBenchmark(merge ? "BM_WriterWaits/merge" : "BM_WriterWaits/insert",
                                           BM_WriterWaits, merge))
            ->Arg(64)
            ->Iterations(10);
    struct Speed {
        const char *name;
        std::uint64_t pages;
        std::uint64_t sleep_ms;
        int rounds;
    };
    constexpr std::int64_t kMibEach = 256;
    in_ms(benchmark::RegisterBenchmark("BM_To90/store", BM_StoreLikeKsm))
        ->Arg(kMibEach)
        ->Iterations(3);
    for (const Speed &speed :
         {Speed{"BM_To90/ksm_full_speed", 100'000, 0, 3},
          Speed{"BM_To90/ksm_5000_20ms", 5'000, 20, 3}, Speed{"BM_To90/ksm_default", 100, 20, 1}})
        in_ms(benchmark::RegisterBenchmark(speed.name, BM_Ksm, speed.pages, speed.sleep_ms))
            ->Arg(kMibEach)
            ->Iterations(speed.rounds);
}

// The sizes of --sizes=MIB,MIB…, which is taken out of the arguments. Throws Error.
std::vector<std::int64_t> take_sizes(int &argc, char **argv) {
    constexpr std::string_view kOption = "--sizes=";
    std::vector<std::int64_t> sizes = {1, 4, 16, 64, 256, 1024, 4096};
    for (int i = 1; i < argc; ++i) {
        std::string_view text = argv[i];
        if (!text.starts_with(kOption))
            continue;
        text.remove_prefix(kOption.size());
        sizes.clear();
        for (const char *at = text.data(), *const end = at + text.size(); at < end; ++at) {
            const auto [after, error] = std::from_chars(at, end, sizes.emplace_back());
            if (error != std::errc() || sizes.back() <= 0 || (after < end && *after != ','))
                throw Error("--sizes: MiB, separated by commas");
            at = after;
        }
        std::copy(argv + i + 1, argv + argc + 1, argv + i); // with the null at the end
        --argc;
        break;
    }
    return sizes;
}

} // namespace

int main(int argc, char **argv) {
    try {
        const std::vector<std::int64_t> sizes = take_sizes(argc, argv);
        const StoreBroker broker;
        running = &broker;
        benchmark::Initialize(&argc, argv);
        if (benchmark::ReportUnrecognizedArguments(argc, argv))
            return 1;
        add_sizes(sizes);
        add_others();
        benchmark::RunSpecifiedBenchmarks();
        return 0;
    } catch (const std::exception &error) {
        (void)std::fprintf(stderr, "upm-bench-store: %s\n", error.what());
        return 1;
    }
}
