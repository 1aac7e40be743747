// SPDX-License-Identifier: MIT
//
// The part of the CUDA driver's binary interface that this folder uses, written
// down here so that it builds where no CUDA toolkit is. Values and layouts are
// those of cuda.h 13.0; tests/cuda/abi_test.cpp compares them with the real header
// wherever one is found.
#ifndef UPM_CUDA_DRIVER_ABI_HPP
#define UPM_CUDA_DRIVER_ABI_HPP

#include <cstddef>
#include <cstdint>

namespace upm::cuda::abi {

using Status = int; // CUresult
using Device = int;
using DevicePtr = unsigned long long;
using Handle = unsigned long long; // CUmemGenericAllocationHandle
using Context = struct ContextObject *;
using Stream = struct StreamObject *;
using Event = struct EventObject *;
using Module = struct ModuleObject *;
using Function = struct FunctionObject *;
using Library = struct LibraryObject *;
using Kernel = struct KernelObject *;

inline constexpr Status kSuccess = 0;
inline constexpr Status kInvalidValue = 1;
inline constexpr Status kOutOfMemory = 2;
inline constexpr Status kNotInitialized = 3;
inline constexpr Status kDeinitialized = 4;
inline constexpr Status kNoDevice = 100;
inline constexpr Status kInvalidDevice = 101;
inline constexpr Status kInvalidImage = 200;
inline constexpr Status kInvalidContext = 201;
inline constexpr Status kInvalidHandle = 400;
inline constexpr Status kNotFound = 500;
inline constexpr Status kNotReady = 600;
inline constexpr Status kIllegalAddress = 700; // sticky: the context is lost
inline constexpr Status kLaunchFailed = 719;   // sticky as well
inline constexpr Status kNotPermitted = 800;
inline constexpr Status kNotSupported = 801;
inline constexpr Status kUnknown = 999;

inline constexpr int kAllocationPinned = 1;
inline constexpr int kHandlePosixFd = 1;
inline constexpr int kLocationDevice = 1;
inline constexpr int kAccessNone = 0;
inline constexpr int kAccessRead = 1;
inline constexpr int kAccessReadWrite = 3;
inline constexpr int kGranularityMinimum = 0;
inline constexpr int kGranularityRecommended = 1;
inline constexpr int kAttributeMultiprocessors = 16;
inline constexpr int kAttributeVmm = 102;
inline constexpr int kAttributePosixFd = 103;
inline constexpr unsigned kStreamNonBlocking = 1;
inline constexpr std::uintptr_t kStreamLegacy = 1;    // CU_STREAM_LEGACY
inline constexpr std::uintptr_t kStreamPerThread = 2; // CU_STREAM_PER_THREAD

struct MemLocation {
    int type;
    int id;
};

struct MemAllocationProp {
    int type;
    int requested_handle_types;
    MemLocation location;
    void *win32_metadata;
    struct {
        unsigned char compression_type;
        unsigned char gpu_direct_rdma_capable;
        unsigned short usage;
        unsigned char reserved[4];
    } alloc_flags;
};

struct MemAccessDesc {
    MemLocation location;
    int flags;
};

struct Uuid {
    unsigned char bytes[16];
};

struct LaunchConfig {
    unsigned grid_x, grid_y, grid_z;
    unsigned block_x, block_y, block_z;
    unsigned shared_bytes;
    Stream stream;
    void *attributes;
    unsigned attribute_count;
};

} // namespace upm::cuda::abi

#endif // UPM_CUDA_DRIVER_ABI_HPP
