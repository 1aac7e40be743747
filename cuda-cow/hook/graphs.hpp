// SPDX-License-Identifier: MIT
//
// CUDA graphs: what a graph writes is found out when it is instantiated, from its
// nodes, and made writable before each launch; what its copies and memsets write already
// before it is instantiated, since the driver looks at that.
#ifndef UPM_CUDA_HOOK_GRAPHS_HPP
#define UPM_CUDA_HOOK_GRAPHS_HPP

#include "cuda-cow/hook/guard.hpp"
#include "cuda-cow/hook/plan.hpp"

#include <atomic>

namespace upm::cuda::hook {

// How to ask the driver about a graph; any may be missing, and is then not asked.
struct GraphInspector {
    Inspector functions;
    abi::Status (*nodes)(abi::Graph, abi::GraphNode *, std::size_t *) = nullptr;
    abi::Status (*type)(abi::GraphNode, int *) = nullptr;
    abi::Status (*kernel)(abi::GraphNode, abi::KernelNodeParams *) = nullptr;
    abi::Status (*copy)(abi::GraphNode, abi::Copy3D *) = nullptr;
    abi::Status (*set)(abi::GraphNode, abi::MemsetNodeParams *) = nullptr;
    abi::Status (*child)(abi::GraphNode, abi::Graph *) = nullptr;
};

// Of an executable graph. An update makes a new one that adds to the last: what a node
// used before it was changed stays in, which costs sharing and no bytes.
struct GraphUses {
    std::vector<Access> written; // by address; none touches another
    std::shared_ptr<const Suspects> suspects;
    std::atomic<std::uint64_t> gates{0}; // of what was found under `written`
    // When all of it was found writable: with these buffers, and nothing frozen since.
    std::atomic<std::uint64_t> generation{0}, freezes{0};

    [[nodiscard]] bool is_ready(std::uint64_t now_generation, std::uint64_t now_freezes) const {
        return written.empty() || (generation == now_generation && freezes == now_freezes);
    }
    void set_ready(std::uint64_t now_generation, std::uint64_t now_freezes) {
        generation = now_generation;
        freezes = now_freezes;
    }
};
// nullptr: nothing is known of it.
std::shared_ptr<GraphUses> uses_of(abi::GraphExec exec) noexcept;

// What copies and memsets of the graph, and of graphs in it, write.
UPM_API Accesses written_by_copies(const GraphInspector &inspector, abi::Graph graph) noexcept;

// Adds what `graph` uses to what is known of `exec`; for instantiation and updates.
UPM_API void note_graph(const GraphInspector &inspector, abi::GraphExec exec,
                        abi::Graph graph) noexcept;
// One node of `exec` is changed to this.
UPM_API void note_node(const GraphInspector &inspector, abi::GraphExec exec,
                       const abi::KernelNodeParams &params) noexcept;
UPM_API void note_node(const GraphInspector &inspector, abi::GraphExec exec,
                       const abi::Copy3D &params) noexcept;
UPM_API void note_node(const GraphInspector &inspector, abi::GraphExec exec,
                       const abi::MemsetNodeParams &params) noexcept;
UPM_API void forget_graph(abi::GraphExec exec) noexcept;

// The device memory that a copy in two or three dimensions, or a memset in two, uses:
// from the first byte of its first row to the last of its last.
UPM_API Accesses accesses_of(const abi::Copy2D &copy) noexcept;
UPM_API Accesses accesses_of(const abi::Copy3D &copy) noexcept;
UPM_API Access rows(abi::DevicePtr to, std::size_t pitch, std::size_t width_bytes,
                    std::size_t height) noexcept;

} // namespace upm::cuda::hook

#endif // UPM_CUDA_HOOK_GRAPHS_HPP
