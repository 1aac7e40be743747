// SPDX-License-Identifier: MIT
//
// What the fake driver takes in the place of a cubin: a table of host functions.
// A function gets pointers to its parameters, as cuLaunchKernel does, and touches
// device memory directly; it runs on its stream's thread, later than the launch. It
// must not hold anything that needs a destructor while it touches device memory,
// since a fault there ends it at once.
#ifndef UPM_CUDA_FAKE_IMAGE_HPP
#define UPM_CUDA_FAKE_IMAGE_HPP

#include <cstddef>
#include <cstdint>

namespace upm::cuda::fake {

struct Launch {
    unsigned grid[3];
    unsigned block[3];
};

struct ImageFunction {
    const char *name;
    std::size_t parameters;   // how many, at most kMaxParameters
    const std::size_t *sizes; // bytes of each
    void (*run)(const Launch &launch, void **parameters);
};

inline constexpr std::size_t kMaxParameters = 16;
inline constexpr std::uint64_t kImageMagic = 0x45474d492d4d5055; // "UPM-IMGE"

struct Image {
    std::uint64_t magic = kImageMagic;
    std::size_t count = 0;
    const ImageFunction *functions = nullptr;
};

} // namespace upm::cuda::fake

#endif // UPM_CUDA_FAKE_IMAGE_HPP
