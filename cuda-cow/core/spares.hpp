// SPDX-License-Identifier: MIT
//
// Extents that are made and mapped beforehand, so that a first write need not wait for that:
// a few of the smallest size, the one for what is written often. advise and attach fill them
// up; a write takes what is there.
#ifndef UPM_CUDA_CORE_SPARES_HPP
#define UPM_CUDA_CORE_SPARES_HPP

#include "cuda-cow/core/runtime.hpp"

namespace upm::cuda {

class Spares {
  public:
    static constexpr std::size_t kCount = 4; // of the granularity each: 8 MiB on a GPU

    struct Spare {
        abi::Handle handle = 0;
        abi::DevicePtr at = 0; // mapped writable there
    };

    explicit Spares(const RuntimeImpl &runtime) : runtime_(runtime) {}
    Spares(const Spares &) = delete;
    Spares &operator=(const Spares &) = delete;
    ~Spares();

    // Pre, for all but take(): the runtime's context is current.
    // Makes as many as there should be. An error is none: there are fewer then.
    void fill();
    // `count` of them, or none if there are fewer. Each goes to used() or unused().
    std::vector<Spare> take(std::size_t count);
    // Its memory belongs to somebody now, and is no longer mapped here.
    void used(const Spare &spare);
    void unused(const Spare &spare);
    // Frees all that nobody has taken; false if there were none.
    bool give_up();

  private:
    bool make(Spare &spare);
    void unmap(const Spare &spare);

    const RuntimeImpl &runtime_;
    std::mutex lock_;
    std::vector<Spare> ready_;
    std::vector<abi::DevicePtr> places_; // where one could be mapped
    abi::DevicePtr address_ = 0;
};

} // namespace upm::cuda

#endif // UPM_CUDA_CORE_SPARES_HPP
