// SPDX-License-Identifier: MIT
//
// upm-bench-store: what the backend store costs next to memcmp and memcpy of the
// same bytes in the same run. Starts a broker of its own.
//
//   build/bin/upm-bench-store --benchmark_out=FILE --benchmark_out_format=json
#include <upm/upm.hpp>

#include <benchmark/benchmark.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <sys/mman.h>

namespace {

constexpr std::size_t kMib = 1024UL * 1024;

// Private memory that is there, each 8 bytes unlike the others of its salt.
class Region {
  public:
    Region(std::size_t size, std::uint64_t salt) : size_(size) {
        void *const mapped =
            ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mapped == MAP_FAILED)
            throw std::runtime_error("mmap");
        data_ = static_cast<std::uint64_t *>(mapped);
        for (std::size_t i = 0; i < size / sizeof(*data_); ++i)
            data_[i] = (i + 1 + (salt << 40U)) * 0x9e3779b97f4a7c15U;
    }
    Region(const Region &) = delete;
    Region &operator=(const Region &) = delete;
    ~Region() { (void)::munmap(data_, size_); }
    [[nodiscard]] void *data() const { return data_; }

  private:
    std::size_t size_;
    std::uint64_t *data_ = nullptr;
};

template <class Work>
void timed(benchmark::State &state, const Work &work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    state.SetIterationTime(taken.count());
}

std::size_t size_of(const benchmark::State &state) {
    return static_cast<std::size_t>(state.range(0)) * kMib;
}

void finish(benchmark::State &state) {
    state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations()) * state.range(0) *
                            static_cast<std::int64_t>(kMib));
}

std::uint64_t salt = 1;

void advise(benchmark::State &state, const Region &region, std::uint64_t upm_counts::*field) {
    const auto done = upm::advise(region.data(), size_of(state));
    if (!done || done.value().*field != done->pages)
        state.SkipWithError("not all pages became what they should");
}

// Names and loops are in the style of Google Benchmark.
// NOLINTBEGIN(readability-identifier-naming, clang-analyzer-deadcode.DeadStores)
void BM_Insert(benchmark::State &state) {
    for (auto _ : state) {
        const Region region(size_of(state), ++salt);
        timed(state, [&] { advise(state, region, &upm_counts::inserted); });
    }
    finish(state);
}

void BM_Merge(benchmark::State &state) {
    const Region first(size_of(state), ++salt);
    advise(state, first, &upm_counts::inserted);
    for (auto _ : state) {
        const Region region(size_of(state), salt);
        timed(state, [&] { advise(state, region, &upm_counts::merged); });
    }
    finish(state);
}

void BM_Memcpy(benchmark::State &state) {
    const Region from(size_of(state), 1);
    const Region to(size_of(state), 2);
    for (auto _ : state)
        timed(state, [&] { std::memcpy(to.data(), from.data(), size_of(state)); });
    finish(state);
}

void BM_Memcmp(benchmark::State &state) {
    const Region one(size_of(state), 1);
    const Region other(size_of(state), 1);
    for (auto _ : state)
        timed(state, [&] {
            benchmark::DoNotOptimize(std::memcmp(one.data(), other.data(), size_of(state)));
        });
    finish(state);
}

// NOLINTEND(readability-identifier-naming, clang-analyzer-deadcode.DeadStores)

} // namespace

#define UPM_BENCHMARK(name)                                                                        \
    BENCHMARK(name)->Arg(1)->Arg(16)->Arg(64)->Arg(256)->UseManualTime()->Iterations(5)->Unit(     \
        benchmark::kMillisecond)
UPM_BENCHMARK(BM_Memcpy);
UPM_BENCHMARK(BM_Insert);
UPM_BENCHMARK(BM_Memcmp);
UPM_BENCHMARK(BM_Merge);

int main(int argc, char **argv) {
    char folder[] = "/tmp/upm-bench-XXXXXX";
    if (::mkdtemp(folder) == nullptr)
        return 1;
    (void)::setenv("UPM_SOCKET", (std::string(folder) + "/upmd.sock").c_str(), 1);
    (void)::setenv("UPM_BACKEND", "store", 1);
    benchmark::Initialize(&argc, argv);
    benchmark::AddCustomContext("upm", std::string(upm::info().reason));
    benchmark::RunSpecifiedBenchmarks();
    return 0;
}
