// SPDX-License-Identifier: MIT
//
// The part of the CUDA driver's binary interface that this folder uses, written
// down here so that it builds where no CUDA toolkit is. Values and layouts are
// those of cuda.h 13.0; tests/cuda-cow/abi_test.cpp compares them with the real header
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
using Graph = struct GraphObject *;
using GraphNode = struct GraphNodeObject *;
using GraphExec = struct GraphExecObject *;
using Array = struct ArrayObject *;

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
// Sticky: the context is lost.
inline constexpr Status kEccUncorrectable = 214;
inline constexpr Status kIllegalAddress = 700;
inline constexpr Status kLaunchTimeout = 702;
inline constexpr Status kContextIsDestroyed = 709;
inline constexpr Status kAssert = 710;
inline constexpr Status kHardwareStackError = 714;
inline constexpr Status kIllegalInstruction = 715;
inline constexpr Status kMisalignedAddress = 716;
inline constexpr Status kInvalidAddressSpace = 717;
inline constexpr Status kInvalidPc = 718;
inline constexpr Status kLaunchFailed = 719;
inline constexpr Status kNotPermitted = 800;
inline constexpr Status kNotSupported = 801;
inline constexpr Status kStreamCaptureUnsupported = 900;
inline constexpr Status kStreamCaptureInvalidated = 901;
inline constexpr Status kStreamCaptureImplicit = 906;
inline constexpr Status kStreamCaptureWrongThread = 908;
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

inline constexpr unsigned kMemoryHost = 1; // CUmemorytype
inline constexpr unsigned kMemoryDevice = 2;
inline constexpr unsigned kMemoryUnified = 4;
inline constexpr int kNodeKernel = 0; // CUgraphNodeType
inline constexpr int kNodeMemcpy = 1;
inline constexpr int kNodeMemset = 2;
inline constexpr int kNodeGraph = 4;
inline constexpr int kCaptureNone = 0; // CUstreamCaptureStatus
inline constexpr int kCaptureActive = 1;

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

// Of one device, CUDA_LAUNCH_PARAMS.
struct LaunchParams {
    Function function;
    unsigned grid_x, grid_y, grid_z;
    unsigned block_x, block_y, block_z;
    unsigned shared_bytes;
    Stream stream;
    void **parameters;
};

// One end of a copy in two dimensions, CUDA_MEMCPY2D.
struct Copy2DEnd {
    std::size_t x_bytes, y;
    unsigned memory_type;
    void *host;
    DevicePtr device;
    Array array;
    std::size_t pitch;
};

struct Copy2D {
    Copy2DEnd from, to;
    std::size_t width_bytes, height;
};

// One end of CUDA_MEMCPY3D, and of CUDA_MEMCPY3D_PEER.
struct Copy3DEnd {
    std::size_t x_bytes, y, z, level;
    unsigned memory_type;
    void *host;
    DevicePtr device;
    Array array;
    void *context; // reserved, or the context of a peer
    std::size_t pitch, height;
};

struct Copy3D {
    Copy3DEnd from, to;
    std::size_t width_bytes, height, depth;
};

struct KernelNodeParams {
    Function function;
    unsigned grid_x, grid_y, grid_z;
    unsigned block_x, block_y, block_z;
    unsigned shared_bytes;
    void **parameters;
    void **extra;
    Kernel kernel; // where `function` is null
    Context context;
};

struct MemsetNodeParams {
    DevicePtr to;
    std::size_t pitch;
    unsigned value;
    unsigned element_bytes;
    std::size_t width; // in elements
    std::size_t height;
};

} // namespace upm::cuda::abi

#endif // UPM_CUDA_DRIVER_ABI_HPP
