// SPDX-License-Identifier: MIT
//
// Programs of several threads under the hook, linked to the fake driver. They end by
// themselves, or stand still for ever where the hook gets in the way of a launch.
//
//   scenes collective   kernels that wait for one that another thread launches, while a
//                       third takes private copies
//   scenes indirect     a thread reads weights by a table of pointers in device memory
//                       while another takes private copies and shares again
//   scenes versions     cuCtxSynchronize and cuGetProcAddress by cuGetProcAddress
//   scenes runtime      cudaMalloc, which other hooks wrap (other_hook.cpp)
//
// The last line printed is "ok", or what is wrong.
#include "cuda-cow/driver/abi.hpp"
#include "cuda-cow/fake/image.hpp"
#include "tests/cuda-cow/calls.hpp"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <string>
#include <thread>
#include <upm/cuda.hpp>
#include <vector>

using namespace upm::cuda;
using upm::Result;

extern "C" int cudaMalloc(void **, unsigned long); // tests/cuda-cow/runtime_stub.cpp

namespace {

constexpr std::size_t kUnit = 65536;

void say(const std::string &line) {
    (void)std::printf("%s\n", line.c_str());
    (void)std::fflush(stdout);
}

abi::Context make_current() {
    abi::Context context = nullptr;
    (void)cuDevicePrimaryCtxRetain(&context, 0);
    (void)cuCtxSetCurrent(context);
    return context;
}

// --- kernels

std::atomic<int> launched_second{0};
std::atomic<int> ran_first{0};

// Runs until the other kernel of its round has run.
void waits(const fake::Launch &, void **parameters) {
    const int round = *static_cast<int *>(parameters[1]);
    while (launched_second < round)
        std::this_thread::sleep_for(std::chrono::microseconds(200));
    ran_first = round;
}

void answers(const fake::Launch &, void **parameters) {
    (void)**static_cast<volatile unsigned char **>(parameters[0]);
    launched_second = *static_cast<int *>(parameters[1]);
}

void by_table(const fake::Launch &, void **parameters) {
    auto *const *const table = *static_cast<volatile unsigned char ***>(parameters[0]);
    for (int i = 0; i < 4; ++i)
        (void)table[i][0];
}

constexpr std::size_t kSizes[] = {8, 4};
constexpr fake::ImageFunction kFunctions[] = {{"_Z5waitsPKfi", 2, kSizes, waits},
                                              {"_Z7answersPKfi", 2, kSizes, answers},
                                              {"_Z12grouped_gemmPKPKfi", 2, kSizes, by_table}};
constexpr fake::Image kImage{.count = 3, .functions = kFunctions};

struct Gpu {
    Gpu() {
        runtime = *Runtime::open();
        make_current();
        abi::Module module = nullptr;
        (void)cuModuleLoadData(&module, &kImage);
        for (std::size_t i = 0; i < 3; ++i)
            (void)cuModuleGetFunction(&functions[i], module, kFunctions[i].name);
    }
    Buffer weights(std::size_t units, unsigned char value) const {
        Buffer made = std::move(*Buffer::allocate(runtime, units * kUnit, {.extent_bytes = kUnit}));
        const std::vector<unsigned char> bytes(units * kUnit, value);
        (void)cuMemcpyHtoD_v2(made.address(), bytes.data(), bytes.size());
        return made;
    }
    abi::Status launch(std::size_t which, Address pointer, int round, abi::Stream stream) const {
        void *parameters[] = {&pointer, &round};
        return cuLaunchKernel(functions[which], 1, 1, 1, 1, 1, 1, 0, stream, parameters, nullptr);
    }
    Runtime runtime;
    abi::Function functions[3] = {};
};

// --- scenes

// A round: this thread launches the kernel that waits, another the one that is waited
// for, a moment later, and a third asks for private copies all the time.
int collective() {
    const Gpu gpu;
    Buffer read = gpu.weights(1, 1);
    Buffer written = gpu.weights(1, 2);
    if (!read.advise() || !written.advise())
        return 1;
    abi::Stream first = nullptr;
    abi::Stream second = nullptr;
    (void)cuStreamCreate(&first, 1);
    (void)cuStreamCreate(&second, 1);
    constexpr int kRounds = 20;
    std::atomic<bool> stop{false};
    std::atomic<int> started{0};
    std::atomic<int> errors{0};
    int copies = 0;
    std::thread writer([&] {
        make_current();
        for (; !stop; ++copies)
            errors += written.will_write(0, 1) && written.advise() ? 0 : 1;
    });
    std::thread rank([&] {
        make_current();
        for (int round = 1; round <= kRounds; ++round) {
            while (started < round)
                std::this_thread::sleep_for(std::chrono::milliseconds(1));
            std::this_thread::sleep_for(std::chrono::milliseconds(20));
            errors += gpu.launch(1, read.address(), round, second) != 0 ? 1 : 0;
        }
    });
    for (int round = 1; round <= kRounds; ++round) {
        errors += gpu.launch(0, read.address(), round, first) != 0 ? 1 : 0;
        started = round;
        errors += cuStreamSynchronize(first) != 0 ? 1 : 0;
    }
    stop = true;
    writer.join();
    rank.join();
    say("rounds=" + std::to_string(ran_first) + " errors=" + std::to_string(errors) +
        " copies=" + (copies > 0 ? "some" : "none"));
    return errors;
}

int indirect() {
    const Gpu gpu;
    Buffer weights = gpu.weights(4, 1);
    static Address table[4];
    for (std::size_t i = 0; i < 4; ++i)
        table[i] = weights.address() + i * kUnit;
    if (!weights.advise())
        return 1;
    std::atomic<bool> stop{false};
    std::atomic<int> status{0};
    std::thread reader([&] {
        make_current();
        abi::Stream stream = nullptr;
        (void)cuStreamCreate(&stream, 1);
        for (int i = 1; !stop && status == 0; ++i) {
            status = gpu.launch(2, reinterpret_cast<Address>(&table[0]), i, stream);
            if (i % 8 == 0 && status == 0)
                status = cuStreamSynchronize(stream);
        }
    });
    int wrong = 0;
    for (int round = 0; round < 150 && status == 0; ++round)
        wrong += weights.will_write(0, weights.size()) && weights.advise() ? 0 : 1;
    stop = true;
    reader.join();
    say("a thread that only reads: " + std::to_string(status));
    return status + wrong;
}

template <class Function>
Function find(const char *name, int version) {
    void *found = nullptr;
    (void)cuGetProcAddress_v2(name, &found, version, 0, nullptr);
    return reinterpret_cast<Function>(found);
}

// One name, two versions with other parameters; and a way to ask that is found by itself.
int versions() {
    abi::Context const context = [] {
        (void)Runtime::open();
        return make_current();
    }();
    const int old_one = find<abi::Status (*)()>("cuCtxSynchronize", 12000)();
    const int new_one = find<abi::Status (*)(abi::Context)>("cuCtxSynchronize", 13000)(context);
    const int wrong = find<abi::Status (*)(abi::Context)>("cuCtxSynchronize", 13000)(
        reinterpret_cast<abi::Context>(std::uintptr_t{8})); // NOLINT(performance-no-int-to-ptr)
    auto *ask = &cuGetProcAddress_v2;
    for (int depth = 0; depth < 3; ++depth) {
        void *found = nullptr;
        if (ask("cuGetProcAddress", &found, 12000, 0, nullptr) != 0 || found == nullptr)
            return 1;
        ask = reinterpret_cast<decltype(ask)>(found);
    }
    say("synchronize: " + std::to_string(old_one) + " " + std::to_string(new_one) + " " +
        std::to_string(wrong));
    return old_one + new_one;
}

int runtime() {
    void *memory = nullptr;
    const int status = cudaMalloc(&memory, 4096);
    say("cudaMalloc: " + std::to_string(status));
    return status;
}

} // namespace

int main(int argc, char **argv) {
    const std::string scene = argc > 1 ? argv[1] : "";
    int wrong = 1;
    if (scene == "collective")
        wrong = collective();
    else if (scene == "indirect")
        wrong = indirect();
    else if (scene == "versions")
        wrong = versions();
    else if (scene == "runtime")
        wrong = runtime();
    say(wrong == 0 ? "ok" : std::string("wrong: ") + last_error());
    std::_Exit(wrong == 0 ? 0 : 1);
}
