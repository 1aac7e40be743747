// SPDX-License-Identifier: MIT
//
// The tag on the host: its definition, and what a runtime without kernels for the
// device falls back to.
#ifndef UPM_CUDA_KERNELS_REFERENCE_HPP
#define UPM_CUDA_KERNELS_REFERENCE_HPP

#include "cuda-cow/kernels/tag_core.hpp"

#include <cstddef>
#include <upm/cuda.hpp>

namespace upm::cuda {

// Expands a domain's secret.
kernels::Keys make_keys(std::uint64_t seed_low, std::uint64_t seed_high) noexcept;

// Pre: `bytes` is a multiple of 4096.
Tag reference_tag(const void *data, std::size_t bytes, const kernels::Keys &keys) noexcept;

} // namespace upm::cuda

#endif // UPM_CUDA_KERNELS_REFERENCE_HPP
