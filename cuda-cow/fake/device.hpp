// SPDX-License-Identifier: MIT
//
// The fake device: a CUDA driver whose physical memory are memfds and whose kernels
// are host functions. It is as strict as the real one is documented to be:
// granularity, zero offsets, whole unmaps, no access before cuMemSetAccess, fresh memory
// that holds anything, work that runs after the call has returned, and a bad access by that
// work as a sticky error of the context. As on the real one, a copy or memset without the
// access that it needs is refused by the call itself, and what was imported cannot be
// exported. What differs is listed in docs/cuda-cow.md.
#ifndef UPM_CUDA_FAKE_DEVICE_HPP
#define UPM_CUDA_FAKE_DEVICE_HPP

#include "cuda-cow/driver/abi.hpp"

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace upm::cuda::fake {

struct Allocation {
    int fd = -1;
    std::size_t size = 0;
    bool created = false; // here, so it counts against the device's memory
    bool exportable = false;
    unsigned references = 0; // handles given out
    unsigned mappings = 0;
};

struct Mapping {
    std::size_t size = 0;
    abi::Handle handle = 0;
    int access = abi::kAccessNone;
};

struct Injection {
    enum class Kind : std::uint8_t { kFail, kKill } kind = Kind::kFail;
    char call[48] = {};
    unsigned long countdown = 0;
    long value = 0; // status or pid
};

struct Settings {
    std::size_t granularity = 2UL << 20;
    std::size_t memory = 0;
    std::size_t mappings = 0;
    unsigned latency_us = 0;
    unsigned task_us = 50;
    std::vector<Injection> injections;
};

} // namespace upm::cuda::fake

namespace upm::cuda::fake {
struct ImageFunction;
}

namespace upm::cuda::abi {

// What cuModuleGetFunction and cuLibraryGetKernel give out.
struct FunctionObject {
    const fake::ImageFunction *description;
    bool is_kernel; // of a library: for launches, not for cuFunc… calls
};

struct ModuleObject {
    std::deque<FunctionObject> functions;
};

// One piece of captured work, and what the program may ask about it.
struct GraphNodeObject {
    int type = -1;
    KernelNodeParams kernel = {};
    Copy3D copy = {};
    MemsetNodeParams set = {};
    std::shared_ptr<std::vector<std::vector<char>>> values; // of the kernel's parameters
    std::vector<void *> pointers;                           // to them
    std::function<void()> work;
};

struct GraphObject {
    std::deque<GraphNodeObject> nodes;
    bool invalidated = false;
};

// One thread, which does what was queued in order.
struct StreamObject {
    explicit StreamObject(bool follows_legacy) : blocking(follows_legacy) {}
    StreamObject(const StreamObject &) = delete;
    StreamObject &operator=(const StreamObject &) = delete;
    ~StreamObject();

    // Pre: the device's stream lock is held. `after`: what must have ended before.
    void push(std::function<void()> work,
              std::vector<std::pair<std::shared_ptr<StreamObject>, std::uint64_t>> after);
    void wait(std::uint64_t count);
    bool idle();
    void start();

    // While it is captured, work goes in here instead; under the device's stream lock.
    std::shared_ptr<GraphObject> capture;
    const bool blocking; // waits for the legacy stream, and the other way round
    std::atomic<std::uint64_t> queued{0};

  private:
    struct Task {
        std::function<void()> work;
        std::vector<std::pair<std::shared_ptr<StreamObject>, std::uint64_t>> after;
    };
    void loop();

    std::mutex lock_;
    std::condition_variable changed_;
    std::deque<Task> tasks_;
    std::uint64_t done_ = 0;
    bool stop_ = false;
    std::thread thread_;
};

} // namespace upm::cuda::abi

namespace upm::cuda::fake {

// The one device of a process, and its primary context.
struct Device {
    std::mutex lock; // of all but the streams
    Settings settings;
    std::map<abi::Handle, Allocation> allocations;
    std::map<abi::DevicePtr, std::size_t> reservations;
    std::map<abi::DevicePtr, Mapping> mappings;
    abi::Handle next_handle = 1;
    std::size_t created_bytes = 0;
    std::size_t calls = 0;

    std::atomic<int> initialized_pid{0};
    std::atomic<abi::Status> sticky{abi::kSuccess};

    std::mutex stream_lock;
    std::shared_ptr<abi::StreamObject> legacy;
    std::vector<std::shared_ptr<abi::StreamObject>> streams;
};

// Never destroyed: stream threads may run while the process exits.
Device &device();

// First thing in every call: counts it, sleeps, injects faults, and finds the
// reasons for which any call fails.
abi::Status enter(const char *call, bool needs_context);

// Queues work on a stream (nullptr and the special values: the legacy stream).
// `node` describes it, should the stream be captured.
abi::Status enqueue(abi::Stream stream, std::function<void()> work, bool wait,
                    abi::GraphNodeObject node = {});
abi::Status wait_for_all();

// Runs `work`; a memory fault in it ends it and makes the context's error sticky.
void run_guarded(const std::function<void()> &work);
void install_fault_handler();

bool is_captured(abi::Stream stream);

// Pre: the stream lock is held. nullptr: no such stream.
std::shared_ptr<abi::StreamObject> find_stream(abi::Stream stream);
// Pre: the stream lock is held. What waiting for everything says during a capture,
// which it spoils.
abi::Status refuse_in_capture();

// The work of a launch, and its description; a bad one has no work.
abi::GraphNodeObject make_launch(const abi::KernelNodeParams &params);

// Whether all of [address, address + size) is mapped, with at least that access.
bool is_mapped(abi::DevicePtr address, std::size_t size, int access = abi::kAccessNone);

int configure(const char *text, Settings &settings);

} // namespace upm::cuda::fake

#endif // UPM_CUDA_FAKE_DEVICE_HPP
