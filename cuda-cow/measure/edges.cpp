// SPDX-License-Identifier: MIT
//
// Accesses that must fail, and changes under a kernel that reads: which error, from which
// call on, and whether it stays. Each in a process of its own, whose context may be lost.
#include "cuda-cow/measure/measure.hpp"

#include <functional>
#include <iostream>
#include <map>
#include <unistd.h>

namespace upm::cuda::measure {

namespace {

struct Place {
    const RuntimeImpl &gpu;
    const Probes &probes;
    abi::DevicePtr at;
    std::size_t unit;
};

// Work that reads for a while, then something under it.
abi::Status under_work(const Place &place, const std::function<abi::Status()> &then) {
    const abi::Status status = place.probes.spin(place.at, 100);
    return status != abi::kSuccess ? status : then();
}

abi::Status access(const Place &place, int flags) {
    return place.gpu.set_access({place.at, place.unit}, flags) == 0 ? abi::kSuccess : abi::kUnknown;
}

abi::Status none(const Place &place) {
    return place.gpu.set_access({place.at, place.unit}, abi::kAccessNone) == 0
               ? place.probes.load(place.at)
               : abi::kUnknown;
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
         return under_work(p, [&] { return p.gpu.api.mem_unmap(p.at, p.unit); });
     }},
    {"read_only_under_reader",
     [](const Place &p) { return under_work(p, [&] { return access(p, abi::kAccessRead); }); }},
    {"writable_under_reader",
     [](const Place &p) {
         return under_work(p, [&] { return access(p, abi::kAccessReadWrite); });
     }},
};

} // namespace

int edge(const std::string &kind) {
    const Runtime runtime = must(Runtime::open(), "open");
    const RuntimeImpl &gpu = *runtime.shared();
    const CurrentContext current(gpu);
    const Probes probes(gpu);
    abi::Handle handle = 0;
    Window window(gpu);
    if (gpu.create(gpu.granularity, handle) != 0 ||
        window.open({handle}, {gpu.granularity}, abi::kAccessRead) != 0)
        die("memory");
    const Place place{gpu, probes, window.pieces()[0].address, gpu.granularity};
    const bool kernel = kind != "memset" && !kind.starts_with("copy");
    if (kernel && !probes.there()) {
        std::cout << "null" << std::endl;
        ::_exit(0);
    }
    const auto since = Clock::now();
    const abi::Status call = kActions.at(kind)(place);
    const double took = micros(since);
    const abi::Status wait = gpu.api.ctx_synchronize();
    const abi::Status later = gpu.api.ctx_synchronize();
    std::cout << json{{"call", call}, {"wait", wait}, {"later", later}, {"call_us", took}}
              << std::endl;
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
