// SPDX-License-Identifier: MIT
//
// Accesses that must fail, and changes under a kernel that reads: which error, from which
// call on, and whether it stays. Each in a process of its own, whose context may be lost.
#include "cuda-cow/measure/measure.hpp"

#include <cstdlib>
#include <dlfcn.h>
#include <functional>
#include <iostream>
#include <map>
#include <unistd.h>

namespace upm::cuda::measure {

namespace {

struct Place {
    const RuntimeImpl &gpu;
    const Probes &probes;
    abi::DevicePtr at; // mapped read-only
    std::size_t unit;
    json &more; // to be said beside the three statuses
};

// Work that reads for a while, then something under it.
abi::Status under_work(const Place &place, const std::function<abi::Status()> &then,
                       unsigned milliseconds = 100) {
    const abi::Status status = place.probes.spin(place.at, milliseconds);
    return status != abi::kSuccess ? status : then();
}

abi::Status access(const Place &place, int flags) {
    return place.gpu.set_access({place.at, place.unit}, flags) == 0 ? abi::kSuccess : abi::kUnknown;
}

abi::Status none(const Place &place) {
    return access(place, abi::kAccessNone) == abi::kSuccess ? place.probes.load(place.at)
                                                            : abi::kUnknown;
}

abi::Status copy_without_access(const Place &place) {
    char byte = 0;
    return access(place, abi::kAccessNone) == abi::kSuccess
               ? place.gpu.api.memcpy_dtoh(&byte, place.at, 1)
               : abi::kUnknown;
}

// A call that the library itself has no use for; nullptr if the driver lacks it.
template <class Call>
Call find(const char *name) {
    const char *const given = ::secure_getenv("UPM_CUDA_DRIVER");
    void *const driver = ::dlopen(given != nullptr ? given : "libcuda.so.1", RTLD_NOW);
    return driver == nullptr ? nullptr : reinterpret_cast<Call>(::dlsym(driver, name));
}

abi::Status write_value(const Place &place) {
    using Call = abi::Status (*)(abi::Stream, abi::DevicePtr, std::uint32_t, unsigned);
    const auto call = find<Call>("cuStreamWriteValue32_v2");
    return call == nullptr ? abi::kNotFound : call(place.gpu.stream, place.at, 1, 0);
}

abi::Status copy_batch(const Place &place) {
    struct Attributes {
        int order;
        abi::MemLocation from, to;
        unsigned flags;
    } attributes{.order = 1, .from = {}, .to = {}, .flags = 0};
    using Call = abi::Status (*)(abi::DevicePtr *, abi::DevicePtr *, std::size_t *, std::size_t,
                                 void *, std::size_t *, std::size_t, abi::Stream);
    const auto call = find<Call>("cuMemcpyBatchAsync_v2");
    abi::DevicePtr to = place.at;
    abi::DevicePtr from = place.at + place.unit / 2;
    std::size_t bytes = 64;
    std::size_t first = 0;
    return call == nullptr ? abi::kNotFound
                           : call(&to, &from, &bytes, 1, &attributes, &first, 1, place.gpu.stream);
}

// A memset of the byte 7 at the place, captured and instantiated while it has that access.
abi::Status make_graph(const Place &place, int flags, abi::GraphExec &exec) {
    const auto begin = find<abi::Status (*)(abi::Stream, int)>("cuStreamBeginCapture_v2");
    const auto end = find<abi::Status (*)(abi::Stream, abi::Graph *)>("cuStreamEndCapture");
    const auto instantiate =
        find<abi::Status (*)(abi::GraphExec *, abi::Graph, unsigned long long)>(
            "cuGraphInstantiateWithFlags");
    abi::Graph graph = nullptr;
    constexpr int kRelaxed = 2;
    if (begin == nullptr || end == nullptr || instantiate == nullptr)
        return abi::kNotFound;
    abi::Status status = access(place, flags);
    if (status == abi::kSuccess)
        status = begin(place.gpu.stream, kRelaxed);
    if (status != abi::kSuccess)
        return status;
    status = place.gpu.api.memset_d8_async(place.at, 7, 64, place.gpu.stream);
    place.more["memset_in_capture"] = status;
    const abi::Status ended = end(place.gpu.stream, &graph);
    place.more["end_of_capture"] = ended;
    if (ended != abi::kSuccess || graph == nullptr)
        return status != abi::kSuccess ? status : ended;
    status = instantiate(&exec, graph, 0);
    place.more["instantiate"] = status;
    return status;
}

// The graph, launched with another access, or with other memory behind the address.
abi::Status launch_graph(const Place &place, int captured, int launched, bool remap) {
    abi::GraphExec exec = nullptr;
    abi::Status status = make_graph(place, captured, exec);
    const auto launch = find<abi::Status (*)(abi::GraphExec, abi::Stream)>("cuGraphLaunch");
    if (status != abi::kSuccess || exec == nullptr || launch == nullptr)
        return status;
    abi::Handle other = 0;
    if (remap && (place.gpu.api.mem_unmap(place.at, place.unit) != abi::kSuccess ||
                  place.gpu.create(place.unit, other) != 0 ||
                  place.gpu.api.mem_map(place.at, place.unit, 0, other, 0) != abi::kSuccess))
        return abi::kUnknown;
    status = access(place, launched);
    if (status == abi::kSuccess)
        status = launch(exec, place.gpu.stream);
    if (status != abi::kSuccess || place.gpu.api.ctx_synchronize() != abi::kSuccess)
        return status;
    unsigned char byte = 0;
    (void)place.gpu.api.memcpy_dtoh(&byte, place.at, 1);
    place.more["written"] = byte == 7;
    return status;
}

using Action = abi::Status (*)(const Place &);
const std::map<std::string, Action> kActions = {
    {"memset", [](const Place &p) { return p.gpu.api.memset_d8(p.at, 1, p.unit); }},
    {"copy_from_host",
     [](const Place &p) {
         const std::vector<char> bytes(p.unit);
         return p.gpu.api.memcpy_htod(p.at, bytes.data(), p.unit);
     }},
    {"copy_on_device",
     [](const Place &p) { return p.gpu.api.memcpy_dtod(p.at, p.at + p.unit / 2, p.unit / 2); }},
    {"copy_batch", copy_batch},
    {"copy_without_access", copy_without_access},
    {"write_value", write_value},
    {"kernel_store", [](const Place &p) { return p.probes.store(p.at); }},
    {"kernel_atomic", [](const Place &p) { return p.probes.atomic(p.at); }},
    {"read_without_access", none},
    {"read_unmapped",
     [](const Place &p) {
         (void)p.gpu.api.mem_unmap(p.at, p.unit);
         return p.probes.load(p.at);
     }},
    {"unmap_under_work",
     [](const Place &p) {
         constexpr unsigned kUntilItFails = 5000;
         return under_work(
             p, [&] { return p.gpu.api.mem_unmap(p.at, p.unit); }, kUntilItFails);
     }},
    {"read_only_under_reader",
     [](const Place &p) { return under_work(p, [&] { return access(p, abi::kAccessRead); }); }},
    {"writable_under_reader",
     [](const Place &p) {
         return under_work(p, [&] { return access(p, abi::kAccessReadWrite); });
     }},
    {"graph_writable_then_read_only",
     [](const Place &p) {
         return launch_graph(p, abi::kAccessReadWrite, abi::kAccessRead, false);
     }},
    {"graph_read_only_then_writable",
     [](const Place &p) {
         return launch_graph(p, abi::kAccessRead, abi::kAccessReadWrite, false);
     }},
    {"graph_of_memory_that_was_replaced",
     [](const Place &p) {
         return launch_graph(p, abi::kAccessReadWrite, abi::kAccessReadWrite, true);
     }},
};

bool needs_kernels(const std::string &kind) {
    return kind.find("kernel") == 0 || kind.find("read_") == 0 || kind.find("under_") < kind.size();
}

} // namespace

int edge(const std::string &kind) {
    const Runtime runtime = must(Runtime::open(), "open");
    const RuntimeImpl &gpu = *runtime.shared();
    const CurrentContext current(gpu);
    const Probes probes(gpu.api, gpu.stream);
    abi::Handle handle = 0;
    Window window(gpu);
    if (gpu.create(gpu.granularity, handle) != 0 ||
        window.open({handle}, {gpu.granularity}, abi::kAccessRead) != 0)
        die("memory");
    json said = json::object();
    const Place place{gpu, probes, window.pieces()[0].address, gpu.granularity, said};
    if (needs_kernels(kind) && !probes.there()) {
        std::cout << "null" << std::endl;
        ::_exit(0);
    }
    const auto since = Clock::now();
    said["call"] = kActions.at(kind)(place);
    said["call_us"] = micros(since);
    said["wait"] = gpu.api.ctx_synchronize();
    said["later"] = gpu.api.ctx_synchronize();
    std::cout << said << std::endl;
    ::_exit(0); // nothing can be tidied up in a lost context
}

void edges(const Runtime & /*runtime*/, const Job &job, Report &report) {
    for (const auto &[kind, action] : kActions) {
        const Child child(job.program, {"--edge", kind});
        const json found = json::parse(child.line(), nullptr, false);
        report.put(kind, found.is_discarded() ? json("the process ended") : found);
    }
}

} // namespace upm::cuda::measure
