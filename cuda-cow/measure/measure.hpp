// SPDX-License-Identifier: MIT
//
// What the sections of upm-cuda-measure share. Each section is a process of its own and
// puts what it found into a Report piece by piece: an error, or an answer of the driver
// that nobody expected, ends the section with a message and loses nothing that was found.
#ifndef UPM_CUDA_MEASURE_MEASURE_HPP
#define UPM_CUDA_MEASURE_MEASURE_HPP

#include "cuda-cow/core/runtime.hpp"
#include "cuda-cow/measure/probes.hpp"

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

// Prints all that is known as one line of JSON whenever something comes to it: the last
// line is what counts.
class Report {
  public:
    void put(const std::string &name, json value);

  private:
    json all_ = json::object();
};

// GPU memory that is taken, of all processes.
std::size_t used(const RuntimeImpl &gpu);
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

// The time that the device takes for work on the library's stream, by events; by the
// clock where the driver has none.
class GpuTimer {
  public:
    explicit GpuTimer(const RuntimeImpl &gpu);
    GpuTimer(const GpuTimer &) = delete;
    GpuTimer &operator=(const GpuTimer &) = delete;
    ~GpuTimer();
    [[nodiscard]] const char *kind() const noexcept { return by_events_ ? "events" : "clock"; }

    // `work` puts work on the stream; the microseconds from its begin to its end.
    template <class Work>
    double time(Work &&work, const char *what) {
        start();
        const auto error = work();
        return stop(error == 0, what);
    }
    // The same for kernels of the hasher, which waits itself: without its copies.
    template <class Work>
    double time_kernels(Work &&work, const char *what) {
        const auto since = Clock::now();
        const bool on_gpu = std::string(gpu_.hasher->name()) == "gpu";
        if (by_events_ && on_gpu)
            gpu_.hasher->mark(before_, after_);
        const auto error = work();
        gpu_.hasher->mark(nullptr, nullptr);
        if (error != 0)
            die(what);
        return by_events_ && on_gpu ? elapsed(what) : micros(since);
    }

  private:
    void start();
    double stop(bool well, const char *what);
    [[nodiscard]] double elapsed(const char *what) const;

    const RuntimeImpl &gpu_;
    abi::Event before_ = nullptr;
    abi::Event after_ = nullptr;
    bool by_events_ = false;
    Clock::time_point since_;
};

// This program again, or another, with a socket as its standard input and output.
class Child {
  public:
    Child(const std::string &program, const std::vector<std::string> &arguments);
    Child(const Child &) = delete;
    Child &operator=(const Child &) = delete;
    ~Child(); // kills it
    [[nodiscard]] int socket() const noexcept { return socket_; }
    [[nodiscard]] std::string line() const; // "" when it is gone
    void say(const std::string &word) const;
    void kill();

  private:
    int socket_ = -1;
    pid_t pid_ = -1;
};

// The sections. costs.cpp:
void calls(const Runtime &runtime, const Job &job, Report &report);
void batches(const Runtime &runtime, const Job &job, Report &report);
void spare(const Runtime &runtime, const Job &job, Report &report);
void bandwidth(const Runtime &runtime, const Job &job, Report &report);
void hook(const Runtime &runtime, const Job &job, Report &report);
// facts.cpp:
void machine(const Runtime &runtime, const Job &job, Report &report);
void fresh_memory(const Runtime &runtime, const Job &job, Report &report);
void export_again(const Runtime &runtime, const Job &job, Report &report);
void under_work(const Runtime &runtime, const Job &job, Report &report);
// sharing.cpp:
void sharing(const Runtime &runtime, const Job &job, Report &report);
void first_write(const Runtime &runtime, const Job &job, Report &report);
void processes(const Runtime &runtime, const Job &job, Report &report);
void exporter_death(const Runtime &runtime, const Job &job, Report &report);
void small_extents(const Runtime &runtime, const Job &job, Report &report);
// profile.cpp, trials.cpp:
void profile(const Runtime &runtime, const Job &job, Report &report);
void trials(const Runtime &runtime, const Job &job, Report &report);
// trouble.cpp:
void lost_broker(const Runtime &runtime, const Job &job, Report &report);
void broker_death(const Runtime &runtime, const Job &job, Report &report);
void backstop(const Runtime &runtime, const Job &job, Report &report);
// edges.cpp:
void edges(const Runtime &runtime, const Job &job, Report &report);

// The work of children.
int hold(const std::string &manifest_path);
int export_and_wait();
int edge(const std::string &kind);
int share_on_and_on(std::size_t bytes, std::size_t extent);
int trespass(const std::string &manifest_path, const std::string &how);

} // namespace upm::cuda::measure

#endif // UPM_CUDA_MEASURE_MEASURE_HPP
