// SPDX-License-Identifier: MIT
//
// Launches of probe.cu, and the same kernels for the fake driver.
#include "cuda-cow/measure/probes.hpp"

#include "cuda-cow/fake/image.hpp"

#include <chrono>
#include <thread>

#ifdef UPM_CUDA_PROBE_FATBIN
asm(".section .rodata\n"
    ".balign 16\n"
    "upm_cuda_probe_fatbin:\n"
    ".incbin \"" UPM_CUDA_PROBE_FATBIN "\"\n"
    ".previous\n");
// NOLINTNEXTLINE(readability-identifier-naming): a symbol of C
extern "C" const unsigned char upm_cuda_probe_fatbin[];
#endif

namespace upm::cuda::measure {

namespace {

using Clock = std::chrono::steady_clock;

volatile unsigned *place(void **parameters) {
    return *static_cast<volatile unsigned **>(parameters[0]);
}

void store(const fake::Launch & /*launch*/, void **parameters) {
    *place(parameters) = 1;
}

void load(const fake::Launch & /*launch*/, void **parameters) {
    (void)*place(parameters);
}

void spin(const fake::Launch & /*launch*/, void **parameters) {
    const auto since = Clock::now();
    const auto nanoseconds = *static_cast<unsigned long long *>(parameters[1]);
    while (Clock::now() - since < std::chrono::nanoseconds(nanoseconds)) {
        (void)*place(parameters);
        std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
}

constexpr std::size_t kSizes[] = {8, 8};
constexpr fake::ImageFunction kFunctions[] = {
    {"upm_probe_store", 2, kSizes, store},
    {"upm_probe_atomic", 2, kSizes, store},
    {"upm_probe_load", 2, kSizes, load},
    {"upm_probe_spin", 2, kSizes, spin},
};
constexpr fake::Image kFakeImage{.count = 4, .functions = kFunctions};

const void *image(const DriverApi &api) {
    if (api.fake())
        return &kFakeImage;
#ifdef UPM_CUDA_PROBE_FATBIN
    return upm_cuda_probe_fatbin;
#else
    return nullptr;
#endif
}

} // namespace

Probes::Probes(const DriverApi &api, abi::Stream stream) : api_(api), stream_(stream) {
    const void *const from = image(api);
    if (from == nullptr || api.module_load(&module_, from) != abi::kSuccess)
        module_ = nullptr;
}

Probes::~Probes() {
    if (module_ != nullptr)
        (void)api_.module_unload(module_);
}

abi::Status Probes::launch(const char *name, abi::DevicePtr at,
                           unsigned long long nanoseconds) const {
    abi::Function function = nullptr;
    if (const abi::Status status = api_.module_function(&function, module_, name);
        status != abi::kSuccess)
        return status;
    void *parameters[] = {&at, &nanoseconds};
    return api_.launch(function, 1, 1, 1, 1, 1, 1, 0, stream_, parameters, nullptr);
}

} // namespace upm::cuda::measure
