// SPDX-License-Identifier: MIT
#include "cuda-cow/hook/graphs.hpp"

#include "cuda-cow/core/registry.hpp"
#include "cuda-cow/hook/plan.hpp"

#include <unordered_map>

namespace upm::cuda::hook {

namespace {

// Of an executable graph. Grows with updates: what a node used before it was changed
// stays in, which costs sharing and no bytes.
struct Uses {
    std::vector<Access> accesses;
    std::vector<Suspect> suspects;
};

struct Graphs {
    std::mutex lock;
    std::unordered_map<abi::GraphExec, Uses> executables;
};

Graphs &graphs() {
    static auto *const only = new Graphs; // NOLINT(cppcoreguidelines-owning-memory)
    return *only;
}

bool on_device(unsigned memory_type) {
    return memory_type == abi::kMemoryDevice || memory_type == abi::kMemoryUnified;
}

void add(const Accesses &some, Uses &uses) {
    for (const Access &access : some.few)
        if (access.bytes != 0 && registry::find(access.at) != nullptr)
            uses.accesses.push_back(access);
}

void add_kernel(const Inspector &inspector, const abi::KernelNodeParams &node, Uses &uses) {
    const abi::Function function =
        node.function != nullptr ? node.function : reinterpret_cast<abi::Function>(node.kernel);
    if (node.function == nullptr)
        note_kernel(node.kernel, nullptr);
    std::shared_ptr<Plan> hold;
    Plan &plan = plan_of(inspector, function, hold);
    for (const Hit &hit : find_hits(plan, node.parameters, node.extra, true).written)
        uses.accesses.push_back({hit.buffer->address(), hit.buffer->bytes(), true});
    for (Suspect &suspect : suspects_of(plan, node.parameters, node.extra)) {
        uses.accesses.push_back({suspect.address, 1, false});
        uses.suspects.push_back(std::move(suspect));
    }
}

void add_node(const GraphInspector &inspector, abi::GraphNode node, Uses &uses);

void add_graph(const GraphInspector &inspector, abi::Graph graph, Uses &uses) {
    std::size_t count = 0;
    if (inspector.nodes == nullptr || inspector.type == nullptr ||
        inspector.nodes(graph, nullptr, &count) != abi::kSuccess)
        return;
    std::vector<abi::GraphNode> nodes(count);
    if (count == 0 || inspector.nodes(graph, nodes.data(), &count) != abi::kSuccess)
        return;
    for (const abi::GraphNode node : nodes)
        add_node(inspector, node, uses);
}

void add_node(const GraphInspector &inspector, abi::GraphNode node, Uses &uses) {
    int type = -1;
    if (inspector.type(node, &type) != abi::kSuccess)
        return;
    if (type == abi::kNodeKernel && inspector.kernel != nullptr) {
        abi::KernelNodeParams kernel = {};
        if (inspector.kernel(node, &kernel) == abi::kSuccess)
            add_kernel(inspector.functions, kernel, uses);
    } else if (type == abi::kNodeMemcpy && inspector.copy != nullptr) {
        abi::Copy3D copy = {};
        if (inspector.copy(node, &copy) == abi::kSuccess)
            add(accesses_of(copy), uses);
    } else if (type == abi::kNodeMemset && inspector.set != nullptr) {
        abi::MemsetNodeParams set = {};
        if (inspector.set(node, &set) == abi::kSuccess)
            add({.few = {rows(set.to, set.pitch, set.width * set.element_bytes, set.height)},
                 .many = {}},
                uses);
    } else if (type == abi::kNodeGraph && inspector.child != nullptr) {
        abi::Graph child = nullptr;
        if (inspector.child(node, &child) == abi::kSuccess)
            add_graph(inspector, child, uses);
    }
}

void keep(abi::GraphExec exec, const Uses &more) {
    const std::lock_guard<std::mutex> guard(graphs().lock);
    Uses &uses = graphs().executables[exec];
    uses.accesses.insert(uses.accesses.end(), more.accesses.begin(), more.accesses.end());
    uses.suspects.insert(uses.suspects.end(), more.suspects.begin(), more.suspects.end());
}

template <class End>
Access block(const End &end, std::size_t offset, std::size_t bytes, bool writes) {
    if (!on_device(end.memory_type) || bytes == 0)
        return {};
    return {end.device + offset, bytes, writes};
}

Access plane(const abi::Copy2DEnd &end, const abi::Copy2D &copy, bool writes) {
    if (copy.height == 0 || copy.width_bytes == 0)
        return {};
    return block(end, end.y * end.pitch + end.x_bytes,
                 (copy.height - 1) * end.pitch + copy.width_bytes, writes);
}

Access volume(const abi::Copy3DEnd &end, const abi::Copy3D &copy, bool writes) {
    if (copy.height == 0 || copy.width_bytes == 0 || copy.depth == 0)
        return {};
    const std::size_t slice = end.pitch * (end.height != 0 ? end.height : copy.height);
    return block(end, end.z * slice + end.y * end.pitch + end.x_bytes,
                 (copy.depth - 1) * slice + (copy.height - 1) * end.pitch + copy.width_bytes,
                 writes);
}

} // namespace

void note_graph(const GraphInspector &inspector, abi::GraphExec exec, abi::Graph graph) noexcept {
    if (inside_library())
        return;
    Uses uses;
    add_graph(inspector, graph, uses);
    keep(exec, uses);
}

void note_node(const GraphInspector &inspector, abi::GraphExec exec,
               const abi::KernelNodeParams &params) noexcept {
    Uses uses;
    add_kernel(inspector.functions, params, uses);
    keep(exec, uses);
}

void note_node(const GraphInspector & /*inspector*/, abi::GraphExec exec,
               const abi::Copy3D &params) noexcept {
    Uses uses;
    add(accesses_of(params), uses);
    keep(exec, uses);
}

void note_node(const GraphInspector & /*inspector*/, abi::GraphExec exec,
               const abi::MemsetNodeParams &params) noexcept {
    Uses uses;
    add({.few = {rows(params.to, params.pitch, params.width * params.element_bytes, params.height)},
         .many = {}},
        uses);
    keep(exec, uses);
}

void forget_graph(abi::GraphExec exec) noexcept {
    const std::lock_guard<std::mutex> guard(graphs().lock);
    graphs().executables.erase(exec);
}

Accesses accesses_of(abi::GraphExec exec) noexcept {
    Accesses found;
    std::vector<Suspect> suspects;
    {
        const std::lock_guard<std::mutex> guard(graphs().lock);
        const auto known = graphs().executables.find(exec);
        if (known == graphs().executables.end())
            return found;
        found.many = known->second.accesses;
        suspects = known->second.suspects;
    }
    remember(suspects);
    return found;
}

Access rows(abi::DevicePtr to, std::size_t pitch, std::size_t width_bytes,
            std::size_t height) noexcept {
    if (width_bytes == 0 || height == 0)
        return {};
    return {to, (height - 1) * pitch + width_bytes, true};
}

Accesses accesses_of(const abi::Copy2D &copy) noexcept {
    return {.few = {plane(copy.to, copy, true), plane(copy.from, copy, false)}, .many = {}};
}

Accesses accesses_of(const abi::Copy3D &copy) noexcept {
    return {.few = {volume(copy.to, copy, true), volume(copy.from, copy, false)}, .many = {}};
}

} // namespace upm::cuda::hook
