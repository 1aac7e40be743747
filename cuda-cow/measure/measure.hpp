// SPDX-License-Identifier: MIT
//
// What the parts of upm-cuda-measure share. Each part returns JSON; an error ends the
// program with a message, since half a measurement is none.
#ifndef UPM_CUDA_MEASURE_MEASURE_HPP
#define UPM_CUDA_MEASURE_MEASURE_HPP

#include "cuda-cow/core/runtime.hpp"

#include <chrono>
#include <cstddef>
#include <nlohmann/json.hpp>
#include <string>
#include <sys/types.h>
#include <upm/cuda.hpp>
#include <vector>

namespace upm::cuda::measure {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

struct Job {
    std::string program; // this one
    std::size_t bytes = 0;
    std::size_t extent = 0;
    unsigned rounds = 0;
    unsigned processes = 0;
};

double micros(Clock::time_point since);
double median(std::vector<double> values);
[[noreturn]] void die(const std::string &what);

template <class T>
T must(upm::Result<T> result, const char *what) {
    if (!result)
        die(what);
    return std::move(*result);
}
// For a CUresult.
void must(const RuntimeImpl &gpu, abi::Status status, const char *what);

// Content that no earlier `value` gave.
void fill(const RuntimeImpl &gpu, const Buffer &buffer, unsigned value);

// This program again, with a socket as its standard input and output.
class Child {
  public:
    Child(const std::string &program, const std::vector<std::string> &arguments);
    Child(const Child &) = delete;
    Child &operator=(const Child &) = delete;
    ~Child(); // kills it
    [[nodiscard]] int socket() const noexcept { return socket_; }
    [[nodiscard]] std::string line() const; // "" when it is gone
    void kill();

  private:
    int socket_ = -1;
    pid_t pid_ = -1;
};

// Kernels that do what is to be measured or is forbidden (probe.cu).
class Probes {
  public:
    explicit Probes(const RuntimeImpl &gpu);
    Probes(const Probes &) = delete;
    Probes &operator=(const Probes &) = delete;
    ~Probes();
    // Without kernels for this device nothing can be probed.
    [[nodiscard]] bool there() const noexcept { return module_ != nullptr; }
    [[nodiscard]] abi::Status store(abi::DevicePtr to) const {
        return launch("upm_probe_store", to, 0);
    }
    [[nodiscard]] abi::Status atomic(abi::DevicePtr to) const {
        return launch("upm_probe_atomic", to, 0);
    }
    [[nodiscard]] abi::Status load(abi::DevicePtr from) const {
        return launch("upm_probe_load", from, 0);
    }
    // Reads from `from` over and over for that long.
    [[nodiscard]] abi::Status spin(abi::DevicePtr from, unsigned milliseconds) const {
        return launch("upm_probe_spin", from, 1000000ULL * milliseconds);
    }

  private:
    abi::Status launch(const char *name, abi::DevicePtr at, unsigned long long nanoseconds) const;
    const RuntimeImpl &gpu_;
    abi::Module module_ = nullptr;
};

// costs.cpp
json call_costs(const RuntimeImpl &gpu, std::size_t bytes, unsigned rounds);
json batch_costs(const RuntimeImpl &gpu, std::size_t count, unsigned rounds);
json costs_under_work(const RuntimeImpl &gpu);
json bandwidth(const RuntimeImpl &gpu, const Job &job);
json hook_costs(const Runtime &runtime);

// sharing.cpp
json sharing_costs(const Runtime &runtime, const Job &job);
json first_write(const Runtime &runtime, std::size_t extent, unsigned rounds);
json processes(const Runtime &runtime, const Job &job);
json exporter_death(const Runtime &runtime, const Job &job);
int hold(const std::string &manifest_path);
int export_and_wait();

// forbidden.cpp
json forbidden_accesses(const Job &job);
int forbidden(const std::string &kind);

} // namespace upm::cuda::measure

#endif // UPM_CUDA_MEASURE_MEASURE_HPP
