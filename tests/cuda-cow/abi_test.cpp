// SPDX-License-Identifier: MIT
//
// driver/abi.hpp against the real cuda.h. Only built where there is one; nothing to
// run, everything is checked by the compiler.
#include "cuda-cow/driver/driver.hpp"

#include <cuda.h>
#include <gtest/gtest.h>
#include <type_traits>

namespace upm::cuda::abi {

#define UPM_SAME(own, theirs) static_assert(static_cast<long long>(own) == (theirs), #theirs)
UPM_SAME(kSuccess, CUDA_SUCCESS);
UPM_SAME(kInvalidValue, CUDA_ERROR_INVALID_VALUE);
UPM_SAME(kOutOfMemory, CUDA_ERROR_OUT_OF_MEMORY);
UPM_SAME(kNotInitialized, CUDA_ERROR_NOT_INITIALIZED);
UPM_SAME(kDeinitialized, CUDA_ERROR_DEINITIALIZED);
UPM_SAME(kNoDevice, CUDA_ERROR_NO_DEVICE);
UPM_SAME(kInvalidDevice, CUDA_ERROR_INVALID_DEVICE);
UPM_SAME(kInvalidImage, CUDA_ERROR_INVALID_IMAGE);
UPM_SAME(kInvalidContext, CUDA_ERROR_INVALID_CONTEXT);
UPM_SAME(kInvalidHandle, CUDA_ERROR_INVALID_HANDLE);
UPM_SAME(kNotFound, CUDA_ERROR_NOT_FOUND);
UPM_SAME(kNotReady, CUDA_ERROR_NOT_READY);
UPM_SAME(kEccUncorrectable, CUDA_ERROR_ECC_UNCORRECTABLE);
UPM_SAME(kIllegalAddress, CUDA_ERROR_ILLEGAL_ADDRESS);
UPM_SAME(kLaunchTimeout, CUDA_ERROR_LAUNCH_TIMEOUT);
UPM_SAME(kContextIsDestroyed, CUDA_ERROR_CONTEXT_IS_DESTROYED);
UPM_SAME(kAssert, CUDA_ERROR_ASSERT);
UPM_SAME(kHardwareStackError, CUDA_ERROR_HARDWARE_STACK_ERROR);
UPM_SAME(kIllegalInstruction, CUDA_ERROR_ILLEGAL_INSTRUCTION);
UPM_SAME(kMisalignedAddress, CUDA_ERROR_MISALIGNED_ADDRESS);
UPM_SAME(kInvalidAddressSpace, CUDA_ERROR_INVALID_ADDRESS_SPACE);
UPM_SAME(kInvalidPc, CUDA_ERROR_INVALID_PC);
UPM_SAME(kLaunchFailed, CUDA_ERROR_LAUNCH_FAILED);
UPM_SAME(kNotPermitted, CUDA_ERROR_NOT_PERMITTED);
UPM_SAME(kNotSupported, CUDA_ERROR_NOT_SUPPORTED);
UPM_SAME(kUnknown, CUDA_ERROR_UNKNOWN);
UPM_SAME(kStreamCaptureUnsupported, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
UPM_SAME(kStreamCaptureInvalidated, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
UPM_SAME(kStreamCaptureImplicit, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
UPM_SAME(kStreamCaptureWrongThread, CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
UPM_SAME(kMemoryHost, CU_MEMORYTYPE_HOST);
UPM_SAME(kMemoryDevice, CU_MEMORYTYPE_DEVICE);
UPM_SAME(kMemoryUnified, CU_MEMORYTYPE_UNIFIED);
UPM_SAME(kNodeKernel, CU_GRAPH_NODE_TYPE_KERNEL);
UPM_SAME(kNodeMemcpy, CU_GRAPH_NODE_TYPE_MEMCPY);
UPM_SAME(kNodeMemset, CU_GRAPH_NODE_TYPE_MEMSET);
UPM_SAME(kNodeGraph, CU_GRAPH_NODE_TYPE_GRAPH);
UPM_SAME(kCaptureNone, CU_STREAM_CAPTURE_STATUS_NONE);
UPM_SAME(kCaptureActive, CU_STREAM_CAPTURE_STATUS_ACTIVE);
UPM_SAME(kAllocationPinned, CU_MEM_ALLOCATION_TYPE_PINNED);
UPM_SAME(kHandlePosixFd, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
UPM_SAME(kLocationDevice, CU_MEM_LOCATION_TYPE_DEVICE);
UPM_SAME(kAccessNone, CU_MEM_ACCESS_FLAGS_PROT_NONE);
UPM_SAME(kAccessRead, CU_MEM_ACCESS_FLAGS_PROT_READ);
UPM_SAME(kAccessReadWrite, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
UPM_SAME(kGranularityMinimum, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
UPM_SAME(kGranularityRecommended, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED);
UPM_SAME(kAttributeMultiprocessors, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
UPM_SAME(kAttributeVmm, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED);
UPM_SAME(kAttributePosixFd, CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED);
UPM_SAME(kStreamNonBlocking, CU_STREAM_NON_BLOCKING);
UPM_SAME(sizeof(MemAllocationProp), sizeof(CUmemAllocationProp));
UPM_SAME(offsetof(MemAllocationProp, location), offsetof(CUmemAllocationProp, location));
UPM_SAME(offsetof(MemAllocationProp, win32_metadata),
         offsetof(CUmemAllocationProp, win32HandleMetaData));
UPM_SAME(offsetof(MemAllocationProp, alloc_flags), offsetof(CUmemAllocationProp, allocFlags));
UPM_SAME(sizeof(MemAccessDesc), sizeof(CUmemAccessDesc));
UPM_SAME(offsetof(MemAccessDesc, flags), offsetof(CUmemAccessDesc, flags));
UPM_SAME(sizeof(Uuid), sizeof(CUuuid));
UPM_SAME(sizeof(LaunchConfig), sizeof(CUlaunchConfig));
UPM_SAME(offsetof(LaunchConfig, stream), offsetof(CUlaunchConfig, hStream));
UPM_SAME(sizeof(LaunchParams), sizeof(CUDA_LAUNCH_PARAMS));
UPM_SAME(offsetof(LaunchParams, stream), offsetof(CUDA_LAUNCH_PARAMS, hStream));
UPM_SAME(offsetof(LaunchParams, parameters), offsetof(CUDA_LAUNCH_PARAMS, kernelParams));
UPM_SAME(sizeof(Copy2D), sizeof(CUDA_MEMCPY2D));
UPM_SAME(offsetof(Copy2D, to.x_bytes), offsetof(CUDA_MEMCPY2D, dstXInBytes));
UPM_SAME(offsetof(Copy2D, to.y), offsetof(CUDA_MEMCPY2D, dstY));
UPM_SAME(offsetof(Copy2D, to.memory_type), offsetof(CUDA_MEMCPY2D, dstMemoryType));
UPM_SAME(offsetof(Copy2D, to.device), offsetof(CUDA_MEMCPY2D, dstDevice));
UPM_SAME(offsetof(Copy2D, to.pitch), offsetof(CUDA_MEMCPY2D, dstPitch));
UPM_SAME(offsetof(Copy2D, from.device), offsetof(CUDA_MEMCPY2D, srcDevice));
UPM_SAME(offsetof(Copy2D, from.pitch), offsetof(CUDA_MEMCPY2D, srcPitch));
UPM_SAME(offsetof(Copy2D, width_bytes), offsetof(CUDA_MEMCPY2D, WidthInBytes));
UPM_SAME(offsetof(Copy2D, height), offsetof(CUDA_MEMCPY2D, Height));
UPM_SAME(sizeof(Copy3D), sizeof(CUDA_MEMCPY3D));
UPM_SAME(sizeof(Copy3D), sizeof(CUDA_MEMCPY3D_PEER));
UPM_SAME(offsetof(Copy3D, to.x_bytes), offsetof(CUDA_MEMCPY3D, dstXInBytes));
UPM_SAME(offsetof(Copy3D, to.z), offsetof(CUDA_MEMCPY3D, dstZ));
UPM_SAME(offsetof(Copy3D, to.memory_type), offsetof(CUDA_MEMCPY3D, dstMemoryType));
UPM_SAME(offsetof(Copy3D, to.device), offsetof(CUDA_MEMCPY3D, dstDevice));
UPM_SAME(offsetof(Copy3D, to.device), offsetof(CUDA_MEMCPY3D_PEER, dstDevice));
UPM_SAME(offsetof(Copy3D, to.pitch), offsetof(CUDA_MEMCPY3D, dstPitch));
UPM_SAME(offsetof(Copy3D, to.pitch), offsetof(CUDA_MEMCPY3D_PEER, dstPitch));
UPM_SAME(offsetof(Copy3D, to.height), offsetof(CUDA_MEMCPY3D, dstHeight));
UPM_SAME(offsetof(Copy3D, from.device), offsetof(CUDA_MEMCPY3D, srcDevice));
UPM_SAME(offsetof(Copy3D, from.height), offsetof(CUDA_MEMCPY3D, srcHeight));
UPM_SAME(offsetof(Copy3D, width_bytes), offsetof(CUDA_MEMCPY3D, WidthInBytes));
UPM_SAME(offsetof(Copy3D, depth), offsetof(CUDA_MEMCPY3D, Depth));
UPM_SAME(sizeof(KernelNodeParams), sizeof(CUDA_KERNEL_NODE_PARAMS));
UPM_SAME(offsetof(KernelNodeParams, parameters), offsetof(CUDA_KERNEL_NODE_PARAMS, kernelParams));
UPM_SAME(offsetof(KernelNodeParams, extra), offsetof(CUDA_KERNEL_NODE_PARAMS, extra));
UPM_SAME(offsetof(KernelNodeParams, kernel), offsetof(CUDA_KERNEL_NODE_PARAMS, kern));
UPM_SAME(sizeof(MemsetNodeParams), sizeof(CUDA_MEMSET_NODE_PARAMS));
UPM_SAME(offsetof(MemsetNodeParams, element_bytes), offsetof(CUDA_MEMSET_NODE_PARAMS, elementSize));
UPM_SAME(offsetof(MemsetNodeParams, height), offsetof(CUDA_MEMSET_NODE_PARAMS, height));
UPM_SAME(sizeof(DevicePtr), sizeof(CUdeviceptr));
UPM_SAME(sizeof(Handle), sizeof(CUmemGenericAllocationHandle));
#undef UPM_SAME

// As many parameters, each as large: what the calling convention needs.
template <class Own, class Theirs>
struct SameCall : std::false_type {};
template <class... A, class... B>
struct SameCall<Status (*)(A...), CUresult(B...)> {
    static constexpr bool value = [] {
        if constexpr (sizeof...(A) == sizeof...(B))
            return ((sizeof(A) == sizeof(B)) && ...);
        else
            return false;
    }();
};
// The preprocessor turns cuMemCreate's name into that of its version, as in the table.
#define UPM_CHECK(member, symbol, parameters)                                                      \
    static_assert(SameCall<decltype(DriverApi::member), decltype(symbol)>::value, #symbol);
UPM_CUDA_DRIVER_CALLS(UPM_CHECK)
UPM_CUDA_OPTIONAL_CALLS(UPM_CHECK)
#undef UPM_CHECK

TEST(Abi, MatchesCudaH) {
    EXPECT_GE(CUDA_VERSION, 12000) << "the values above were compared with this version";
}

} // namespace upm::cuda::abi
