// SPDX-License-Identifier: MIT
//
// The one list of what comes between a program and its driver. X-macros:
//
//   X(symbol, (parameters), (arguments), what it uses[, stream])
//
// Copies and memsets exist for the legacy default stream and, with a suffix, for the
// default stream of each thread. What is not in the list has read-only protection.
#ifndef UPM_CUDA_HOOK_CALLS_HPP
#define UPM_CUDA_HOOK_CALLS_HPP

#include "cuda-cow/hook/graphs.hpp"

#include <cstddef>
#include <cstdint>

namespace upm::cuda::hook {

inline Accesses writes(abi::DevicePtr to, std::size_t bytes) {
    return {.few = {Access{to, bytes, true}}, .many = {}};
}
inline Accesses reads(abi::DevicePtr from, std::size_t bytes) {
    return {.few = {Access{from, bytes, false}}, .many = {}};
}
inline Accesses moves(abi::DevicePtr to, abi::DevicePtr from, std::size_t bytes) {
    return {.few = {Access{to, bytes, true}, Access{from, bytes, false}}, .many = {}};
}
inline Accesses fills(abi::DevicePtr to, std::size_t pitch, std::size_t width, std::size_t height) {
    return {.few = {rows(to, pitch, width, height)}, .many = {}};
}
template <class Copy>
Accesses copies(const Copy *copy) {
    return copy != nullptr ? accesses_of(*copy) : Accesses{};
}
inline Accesses sets(const abi::MemsetNodeParams *set) {
    return set != nullptr ? fills(set->to, set->pitch, set->width * set->element_bytes, set->height)
                          : Accesses{};
}
inline Accesses batch(const abi::DevicePtr *to, const abi::DevicePtr *from,
                      const std::size_t *bytes, std::size_t count) {
    Accesses all;
    for (std::size_t i = 0; to != nullptr && from != nullptr && bytes != nullptr && i < count;
         ++i) {
        all.many.push_back({to[i], bytes[i], true});
        all.many.push_back({from[i], bytes[i], false});
    }
    return all;
}
// The driver fills as many as the library has, which may be fewer.
inline void clear_kernels(abi::Kernel *kernels, unsigned count) {
    for (unsigned i = 0; kernels != nullptr && i < count; ++i)
        kernels[i] = nullptr;
}
inline void note_kernels(const abi::Kernel *kernels, unsigned count, abi::Library library) {
    for (unsigned i = 0; kernels != nullptr && i < count && kernels[i] != nullptr; ++i)
        note_kernel(kernels[i], library);
}

} // namespace upm::cuda::hook

#define UPM_COPIES(X, suffix)                                                                      \
    X(cuMemcpyHtoD_v2##suffix, (DevicePtr to, const void *from, std::size_t n), (to, from, n),     \
      writes(to, n))                                                                               \
    X(cuMemcpyDtoH_v2##suffix, (void *to, DevicePtr from, std::size_t n), (to, from, n),           \
      reads(from, n))                                                                              \
    X(cuMemcpyDtoD_v2##suffix, (DevicePtr to, DevicePtr from, std::size_t n), (to, from, n),       \
      moves(to, from, n))                                                                          \
    X(cuMemcpy##suffix, (DevicePtr to, DevicePtr from, std::size_t n), (to, from, n),              \
      moves(to, from, n))                                                                          \
    X(cuMemcpyPeer##suffix,                                                                        \
      (DevicePtr to, abi::Context there, DevicePtr from, abi::Context here, std::size_t n),        \
      (to, there, from, here, n), moves(to, from, n))                                              \
    X(cuMemcpyAtoD_v2##suffix, (DevicePtr to, abi::Array from, std::size_t at, std::size_t n),     \
      (to, from, at, n), writes(to, n))                                                            \
    X(cuMemcpyDtoA_v2##suffix, (abi::Array to, std::size_t at, DevicePtr from, std::size_t n),     \
      (to, at, from, n), reads(from, n))                                                           \
    X(cuMemcpy2D_v2##suffix, (const abi::Copy2D *copy), (copy), copies(copy))                      \
    X(cuMemcpy2DUnaligned_v2##suffix, (const abi::Copy2D *copy), (copy), copies(copy))             \
    X(cuMemcpy3D_v2##suffix, (const abi::Copy3D *copy), (copy), copies(copy))                      \
    X(cuMemcpy3DPeer##suffix, (const abi::Copy3D *copy), (copy), copies(copy))                     \
    X(cuMemsetD8_v2##suffix, (DevicePtr to, unsigned char v, std::size_t n), (to, v, n),           \
      writes(to, n))                                                                               \
    X(cuMemsetD16_v2##suffix, (DevicePtr to, unsigned short v, std::size_t n), (to, v, n),         \
      writes(to, 2 * n))                                                                           \
    X(cuMemsetD32_v2##suffix, (DevicePtr to, unsigned v, std::size_t n), (to, v, n),               \
      writes(to, 4 * n))                                                                           \
    X(cuMemsetD2D8_v2##suffix,                                                                     \
      (DevicePtr to, std::size_t pitch, unsigned char v, std::size_t w, std::size_t h),            \
      (to, pitch, v, w, h), fills(to, pitch, w, h))                                                \
    X(cuMemsetD2D16_v2##suffix,                                                                    \
      (DevicePtr to, std::size_t pitch, unsigned short v, std::size_t w, std::size_t h),           \
      (to, pitch, v, w, h), fills(to, pitch, 2 * w, h))                                            \
    X(cuMemsetD2D32_v2##suffix,                                                                    \
      (DevicePtr to, std::size_t pitch, unsigned v, std::size_t w, std::size_t h),                 \
      (to, pitch, v, w, h), fills(to, pitch, 4 * w, h))

#define UPM_ASYNC_COPIES(X, suffix)                                                                \
    X(cuMemcpyHtoDAsync_v2##suffix, (DevicePtr to, const void *from, std::size_t n, Stream s),     \
      (to, from, n, s), writes(to, n), s)                                                          \
    X(cuMemcpyDtoHAsync_v2##suffix, (void *to, DevicePtr from, std::size_t n, Stream s),           \
      (to, from, n, s), reads(from, n), s)                                                         \
    X(cuMemcpyDtoDAsync_v2##suffix, (DevicePtr to, DevicePtr from, std::size_t n, Stream s),       \
      (to, from, n, s), moves(to, from, n), s)                                                     \
    X(cuMemcpyAsync##suffix, (DevicePtr to, DevicePtr from, std::size_t n, Stream s),              \
      (to, from, n, s), moves(to, from, n), s)                                                     \
    X(cuMemcpyPeerAsync##suffix,                                                                   \
      (DevicePtr to, abi::Context there, DevicePtr from, abi::Context here, std::size_t n,         \
       Stream s),                                                                                  \
      (to, there, from, here, n, s), moves(to, from, n), s)                                        \
    X(cuMemcpy2DAsync_v2##suffix, (const abi::Copy2D *copy, Stream s), (copy, s), copies(copy), s) \
    X(cuMemcpy3DAsync_v2##suffix, (const abi::Copy3D *copy, Stream s), (copy, s), copies(copy), s) \
    X(cuMemcpy3DPeerAsync##suffix, (const abi::Copy3D *copy, Stream s), (copy, s), copies(copy),   \
      s)                                                                                           \
    X(cuMemcpyBatchAsync##suffix,                                                                  \
      (DevicePtr * to, DevicePtr * from, std::size_t * n, std::size_t count, void *attributes,     \
       std::size_t *indices, std::size_t attribute_count, std::size_t *failed, Stream s),          \
      (to, from, n, count, attributes, indices, attribute_count, failed, s),                       \
      batch(to, from, n, count), s)                                                                \
    X(cuMemcpyBatchAsync_v2##suffix,                                                               \
      (DevicePtr * to, DevicePtr * from, std::size_t * n, std::size_t count, void *attributes,     \
       std::size_t *indices, std::size_t attribute_count, Stream s),                               \
      (to, from, n, count, attributes, indices, attribute_count, s), batch(to, from, n, count), s) \
    X(cuMemsetD8Async##suffix, (DevicePtr to, unsigned char v, std::size_t n, Stream s),           \
      (to, v, n, s), writes(to, n), s)                                                             \
    X(cuMemsetD16Async##suffix, (DevicePtr to, unsigned short v, std::size_t n, Stream s),         \
      (to, v, n, s), writes(to, 2 * n), s)                                                         \
    X(cuMemsetD32Async##suffix, (DevicePtr to, unsigned v, std::size_t n, Stream s),               \
      (to, v, n, s), writes(to, 4 * n), s)                                                         \
    X(cuMemsetD2D8Async##suffix,                                                                   \
      (DevicePtr to, std::size_t pitch, unsigned char v, std::size_t w, std::size_t h, Stream s),  \
      (to, pitch, v, w, h, s), fills(to, pitch, w, h), s)                                          \
    X(cuMemsetD2D16Async##suffix,                                                                  \
      (DevicePtr to, std::size_t pitch, unsigned short v, std::size_t w, std::size_t h, Stream s), \
      (to, pitch, v, w, h, s), fills(to, pitch, 2 * w, h), s)                                      \
    X(cuMemsetD2D32Async##suffix,                                                                  \
      (DevicePtr to, std::size_t pitch, unsigned v, std::size_t w, std::size_t h, Stream s),       \
      (to, pitch, v, w, h, s), fills(to, pitch, 4 * w, h), s)                                      \
    X(cuStreamWriteValue32##suffix, (Stream s, DevicePtr to, std::uint32_t v, unsigned flags),     \
      (s, to, v, flags), writes(to, 4), s)                                                         \
    X(cuStreamWriteValue64##suffix, (Stream s, DevicePtr to, std::uint64_t v, unsigned flags),     \
      (s, to, v, flags), writes(to, 8), s)                                                         \
    X(cuStreamWriteValue32_v2##suffix, (Stream s, DevicePtr to, std::uint32_t v, unsigned flags),  \
      (s, to, v, flags), writes(to, 4), s)                                                         \
    X(cuStreamWriteValue64_v2##suffix, (Stream s, DevicePtr to, std::uint64_t v, unsigned flags),  \
      (s, to, v, flags), writes(to, 8), s)

// X(symbol, (parameters), (arguments), executable graph, stream)
#define UPM_GRAPH_LAUNCHES(X, suffix)                                                              \
    X(cuGraphLaunch##suffix, (abi::GraphExec exec, Stream s), (exec, s), exec, s)

// X(symbol, (parameters), (arguments), parameters of the kernel, extra, stream)
#define UPM_LAUNCHES(X, suffix)                                                                    \
    X(cuLaunchKernel##suffix,                                                                      \
      (abi::Function f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,           \
       unsigned bz, unsigned shared, Stream s, void **parameters, void **extra),                   \
      (f, gx, gy, gz, bx, by, bz, shared, s, parameters, extra), parameters, extra, s)             \
    X(cuLaunchCooperativeKernel##suffix,                                                           \
      (abi::Function f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,           \
       unsigned bz, unsigned shared, Stream s, void **parameters),                                 \
      (f, gx, gy, gz, bx, by, bz, shared, s, parameters), parameters, nullptr, s)                  \
    X(cuLaunchKernelEx##suffix,                                                                    \
      (const abi::LaunchConfig *config, abi::Function f, void **parameters, void **extra),         \
      (config, f, parameters, extra), parameters, extra,                                           \
      (config != nullptr ? config->stream : nullptr))

// Of CUDA 2 and 3. Their parameters are set one by one before, and are not looked at: only
// the mappings stay as they are.
#define UPM_OLD_LAUNCHES(X)                                                                        \
    X(cuLaunch, (abi::Function f), (f), nullptr, nullptr, nullptr)                                 \
    X(cuLaunchGrid, (abi::Function f, int w, int h), (f, w, h), nullptr, nullptr, nullptr)         \
    X(cuLaunchGridAsync, (abi::Function f, int w, int h, Stream s), (f, w, h, s), nullptr,         \
      nullptr, s)

// X(symbol, (parameters), (arguments), launches, how many)
#define UPM_MANY_LAUNCHES(X)                                                                       \
    X(cuLaunchCooperativeKernelMultiDevice, (abi::LaunchParams * all, unsigned n, unsigned flags), \
      (all, n, flags), all, n)

// X(symbol, (parameters), (arguments), waits for all work)
#define UPM_WAITS(X)                                                                               \
    X(cuCtxSynchronize, (), (), true)                                                              \
    X(cuStreamSynchronize, (Stream s), (s), false)                                                 \
    X(cuStreamSynchronize_ptsz, (Stream s), (s), false)                                            \
    X(cuStreamQuery, (Stream s), (s), false)                                                       \
    X(cuStreamQuery_ptsz, (Stream s), (s), false)

// X(symbol, (parameters), (arguments), before, after it succeeded)
#define UPM_NOTES(X)                                                                               \
    X(cuLibraryGetKernel, (abi::Kernel * to, abi::Library library, const char *name),              \
      (to, library, name), (void)0, hook::note_kernel(*to, library))                               \
    X(cuLibraryEnumerateKernels, (abi::Kernel * to, unsigned n, abi::Library library),             \
      (to, n, library), hook::clear_kernels(to, n), hook::note_kernels(to, n, library))            \
    X(cuModuleUnload, (abi::Module module), (module), hook::forget_functions(), (void)0)           \
    X(cuLibraryUnload, (abi::Library library), (library), hook::forget_functions(library),         \
      (void)0)                                                                                     \
    X(cuGraphExecDestroy, (abi::GraphExec exec), (exec), hook::forget_graph(exec), (void)0)

// X(symbol, (parameters), (arguments), what must be writable, after it succeeded)
//
// The driver refuses to instantiate a graph while a copy or memset of it would write to
// read-only memory. What its kernels write can wait for the launch.
#define UPM_GRAPH_NOTES(X)                                                                         \
    X(cuGraphInstantiateWithFlags,                                                                 \
      (abi::GraphExec * to, abi::Graph graph, unsigned long long flags), (to, graph, flags),       \
      written_by_copies(graph_inspector(), graph),                                                 \
      hook::note_graph(graph_inspector(), *to, graph))                                             \
    X(cuGraphInstantiate_v2,                                                                       \
      (abi::GraphExec * to, abi::Graph graph, abi::GraphNode * failed, char *log, std::size_t n),  \
      (to, graph, failed, log, n), written_by_copies(graph_inspector(), graph),                    \
      hook::note_graph(graph_inspector(), *to, graph))                                             \
    X(cuGraphInstantiateWithParams, (abi::GraphExec * to, abi::Graph graph, void *how),            \
      (to, graph, how), written_by_copies(graph_inspector(), graph),                               \
      hook::note_graph(graph_inspector(), *to, graph))                                             \
    X(cuGraphInstantiateWithParams_ptsz, (abi::GraphExec * to, abi::Graph graph, void *how),       \
      (to, graph, how), written_by_copies(graph_inspector(), graph),                               \
      hook::note_graph(graph_inspector(), *to, graph))                                             \
    X(cuGraphExecUpdate_v2, (abi::GraphExec exec, abi::Graph graph, void *result),                 \
      (exec, graph, result), written_by_copies(graph_inspector(), graph),                          \
      hook::note_graph(graph_inspector(), exec, graph))                                            \
    X(cuGraphExecChildGraphNodeSetParams,                                                          \
      (abi::GraphExec exec, abi::GraphNode node, abi::Graph graph), (exec, node, graph),           \
      written_by_copies(graph_inspector(), graph),                                                 \
      hook::note_graph(graph_inspector(), exec, graph))                                            \
    X(cuGraphExecKernelNodeSetParams_v2,                                                           \
      (abi::GraphExec exec, abi::GraphNode node, const abi::KernelNodeParams *p), (exec, node, p), \
      Accesses{}, hook::note_node(graph_inspector(), exec, *p))                                    \
    X(cuGraphExecMemcpyNodeSetParams,                                                              \
      (abi::GraphExec exec, abi::GraphNode node, const abi::Copy3D *p, abi::Context context),      \
      (exec, node, p, context), copies(p), hook::note_node(graph_inspector(), exec, *p))           \
    X(cuGraphExecMemsetNodeSetParams,                                                              \
      (abi::GraphExec exec, abi::GraphNode node, const abi::MemsetNodeParams *p,                   \
       abi::Context context),                                                                      \
      (exec, node, p, context), sets(p), hook::note_node(graph_inspector(), exec, *p))

#endif // UPM_CUDA_HOOK_CALLS_HPP
