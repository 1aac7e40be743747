// SPDX-License-Identifier: MIT
//
// Kernels that do what is to be measured or is forbidden (probe.cu), on a GPU and on the
// fake driver; the conformance suite uses them as well.
#ifndef UPM_CUDA_MEASURE_PROBES_HPP
#define UPM_CUDA_MEASURE_PROBES_HPP

#include "cuda-cow/driver/driver.hpp"

namespace upm::cuda::measure {

class Probes {
  public:
    // Launches go to `stream`. Pre: a context is current, for all calls.
    explicit Probes(const DriverApi &api, abi::Stream stream = nullptr);
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
    const DriverApi &api_;
    const abi::Stream stream_;
    abi::Module module_ = nullptr;
};

} // namespace upm::cuda::measure

#endif // UPM_CUDA_MEASURE_PROBES_HPP
