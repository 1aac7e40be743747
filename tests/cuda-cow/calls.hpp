// SPDX-License-Identifier: MIT
//
// The driver's functions as programs know them that are linked to it.
#ifndef UPM_TESTS_CUDA_COW_CALLS_HPP
#define UPM_TESTS_CUDA_COW_CALLS_HPP

#include "cuda-cow/driver/abi.hpp"

#include <cstdint>
#include <upm/cuda.hpp>

namespace upm::cuda {

extern "C" {
abi::Status cuLaunchKernel(abi::Function, unsigned, unsigned, unsigned, unsigned, unsigned,
                           unsigned, unsigned, abi::Stream, void **, void **);
abi::Status cuMemcpyHtoD_v2(Address, const void *, std::size_t);
abi::Status cuMemcpyDtoH_v2(void *, Address, std::size_t);
abi::Status cuMemcpyDtoD_v2(Address, Address, std::size_t);
abi::Status cuMemsetD8_v2(Address, unsigned char, std::size_t);
abi::Status cuCtxSynchronize();
abi::Status cuModuleLoadData(abi::Module *, const void *);
abi::Status cuModuleGetFunction(abi::Function *, abi::Module, const char *);
abi::Status cuDevicePrimaryCtxRetain(abi::Context *, abi::Device);
abi::Status cuCtxSetCurrent(abi::Context);
abi::Status cuGetProcAddress_v2(const char *, void **, int, std::uint64_t, int *);
abi::Status cuLibraryLoadData(abi::Library *, const void *, int *, void **, unsigned, int *,
                              void **, unsigned);
abi::Status cuLibraryGetKernel(abi::Kernel *, abi::Library, const char *);
abi::Status cuLibraryEnumerateKernels(abi::Kernel *, unsigned, abi::Library);
abi::Status cuLaunchCooperativeKernelMultiDevice(abi::LaunchParams *, unsigned, unsigned);
abi::Status cuLaunchKernelEx(const abi::LaunchConfig *, abi::Function, void **, void **);
abi::Status cuMemcpy(Address, Address, std::size_t);
abi::Status cuMemcpy2D_v2(const abi::Copy2D *);
abi::Status cuMemcpy3D_v2(const abi::Copy3D *);
abi::Status cuMemcpyPeer(Address, abi::Context, Address, abi::Context, std::size_t);
abi::Status cuMemsetD2D8_v2(Address, std::size_t, unsigned char, std::size_t, std::size_t);
abi::Status cuMemcpyBatchAsync_v2(Address *, Address *, std::size_t *, std::size_t, void *,
                                  std::size_t *, std::size_t, abi::Stream);
abi::Status cuMemsetD8Async(Address, unsigned char, std::size_t, abi::Stream);
abi::Status cuStreamCreate(abi::Stream *, unsigned);
abi::Status cuStreamSynchronize(abi::Stream);
abi::Status cuStreamBeginCapture_v2(abi::Stream, int);
abi::Status cuStreamEndCapture(abi::Stream, abi::Graph *);
abi::Status cuGraphInstantiateWithFlags(abi::GraphExec *, abi::Graph, unsigned long long);
abi::Status cuGraphLaunch(abi::GraphExec, abi::Stream);
abi::Status cuGraphGetNodes(abi::Graph, abi::GraphNode *, std::size_t *);
abi::Status cuGraphExecKernelNodeSetParams_v2(abi::GraphExec, abi::GraphNode,
                                              const abi::KernelNodeParams *);
}

} // namespace upm::cuda

#endif // UPM_TESTS_CUDA_COW_CALLS_HPP
