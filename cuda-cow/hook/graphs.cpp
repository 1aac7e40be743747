// SPDX-License-Identifier: MIT
#include "cuda-cow/hook/graphs.hpp"

#include "cuda-cow/core/registry.hpp"

#include <algorithm>
#include <shared_mutex>
#include <unordered_map>

namespace upm::cuda::hook {

namespace {

// What is found in nodes, before it is put in order.
struct Found {
    std::vector<Access> written;
    Suspects suspects;
    bool kernels = true; // are looked at
};

struct Graphs {
    std::shared_mutex lock;
    std::unordered_map<abi::GraphExec, std::shared_ptr<GraphUses>> executables;
};

Graphs &graphs() {
    static auto *const only = new Graphs; // NOLINT(cppcoreguidelines-owning-memory)
    return *only;
}

bool on_device(unsigned memory_type) {
    return memory_type == abi::kMemoryDevice || memory_type == abi::kMemoryUnified;
}

void add(const Access &access, Found &found) {
    if (access.bytes != 0 && access.writes)
        found.written.push_back(access);
}

void add(const abi::Copy3D &copy, Found &found) {
    for (const Access &access : accesses_of(copy).few)
        add(access, found);
}

void add(const abi::MemsetNodeParams &set, Found &found) {
    add(rows(set.to, set.pitch, set.width * set.element_bytes, set.height), found);
}

void add(const Inspector &inspector, const abi::KernelNodeParams &node, Found &found) {
    const abi::Function function =
        node.function != nullptr ? node.function : reinterpret_cast<abi::Function>(node.kernel);
    if (node.function == nullptr)
        note_kernel(node.kernel, nullptr);
    std::shared_ptr<Plan> hold;
    Plan &plan = plan_of(inspector, function, hold);
    for (const Hit &hit : find_hits(plan, node.parameters, node.extra, &found.suspects).written)
        add(Access{hit.buffer->address(), hit.buffer->bytes(), true}, found);
}

void add_node(const GraphInspector &inspector, abi::GraphNode node, Found &found);

void add_graph(const GraphInspector &inspector, abi::Graph graph, Found &found) {
    std::size_t count = 0;
    if (inspector.nodes == nullptr || inspector.type == nullptr ||
        inspector.nodes(graph, nullptr, &count) != abi::kSuccess)
        return;
    std::vector<abi::GraphNode> nodes(count);
    if (count == 0 || inspector.nodes(graph, nodes.data(), &count) != abi::kSuccess)
        return;
    for (const abi::GraphNode node : nodes)
        add_node(inspector, node, found);
}

// What the driver says of a node, or nothing.
template <class Params>
void add_params(abi::Status (*get)(abi::GraphNode, Params *), abi::GraphNode node, Found &found) {
    Params params = {};
    if (get != nullptr && get(node, &params) == abi::kSuccess)
        add(params, found);
}

void add_node(const GraphInspector &inspector, abi::GraphNode node, Found &found) {
    int type = -1;
    abi::KernelNodeParams kernel = {};
    abi::Graph child = nullptr;
    if (inspector.type(node, &type) != abi::kSuccess)
        return;
    if (type == abi::kNodeMemcpy)
        add_params(inspector.copy, node, found);
    else if (type == abi::kNodeMemset)
        add_params(inspector.set, node, found);
    else if (type == abi::kNodeKernel && found.kernels && inspector.kernel != nullptr &&
             inspector.kernel(node, &kernel) == abi::kSuccess)
        add(inspector.functions, kernel, found);
    else if (type == abi::kNodeGraph && inspector.child != nullptr &&
             inspector.child(node, &child) == abi::kSuccess)
        add_graph(inspector, child, found);
}

// In order, and what overlaps or touches as one: a launch looks at few.
std::vector<Access> merged(std::vector<Access> all) {
    std::sort(all.begin(), all.end(),
              [](const Access &one, const Access &other) { return one.at < other.at; });
    std::vector<Access> few;
    for (const Access &access : all) {
        if (few.empty() || access.at > few.back().at + few.back().bytes)
            few.push_back(access);
        else
            few.back().bytes =
                std::max<std::size_t>(few.back().bytes, access.at + access.bytes - few.back().at);
    }
    return few;
}

void keep(abi::GraphExec exec, Found found) {
    auto made = std::make_shared<GraphUses>();
    const std::unique_lock<std::shared_mutex> guard(graphs().lock);
    std::shared_ptr<GraphUses> &uses = graphs().executables[exec];
    if (uses != nullptr) {
        found.written.insert(found.written.end(), uses->written.begin(), uses->written.end());
        if (uses->suspects != nullptr)
            found.suspects.insert(found.suspects.end(), uses->suspects->begin(),
                                  uses->suspects->end());
    }
    found.suspects.resize(std::min(found.suspects.size(), kMaxSuspects));
    made->written = merged(std::move(found.written));
    if (!found.suspects.empty())
        made->suspects = std::make_shared<const Suspects>(std::move(found.suspects));
    uses = std::move(made);
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

Accesses written_by_copies(const GraphInspector &inspector, abi::Graph graph) noexcept {
    Accesses all;
    if (inside_library() || registry::devices.load(std::memory_order_relaxed) == 0)
        return all;
    Found found;
    found.kernels = false;
    add_graph(inspector, graph, found);
    all.many = merged(std::move(found.written));
    return all;
}

void note_graph(const GraphInspector &inspector, abi::GraphExec exec, abi::Graph graph) noexcept {
    if (inside_library())
        return;
    Found found;
    add_graph(inspector, graph, found);
    keep(exec, std::move(found));
}

void note_node(const GraphInspector &inspector, abi::GraphExec exec,
               const abi::KernelNodeParams &params) noexcept {
    Found found;
    add(inspector.functions, params, found);
    keep(exec, std::move(found));
}

void note_node(const GraphInspector & /*inspector*/, abi::GraphExec exec,
               const abi::Copy3D &params) noexcept {
    Found found;
    add(params, found);
    keep(exec, std::move(found));
}

void note_node(const GraphInspector & /*inspector*/, abi::GraphExec exec,
               const abi::MemsetNodeParams &params) noexcept {
    Found found;
    add(params, found);
    keep(exec, std::move(found));
}

void forget_graph(abi::GraphExec exec) noexcept {
    const std::unique_lock<std::shared_mutex> guard(graphs().lock);
    graphs().executables.erase(exec);
}

std::shared_ptr<GraphUses> uses_of(abi::GraphExec exec) noexcept {
    const std::shared_lock<std::shared_mutex> guard(graphs().lock);
    const auto known = graphs().executables.find(exec);
    return known == graphs().executables.end() ? nullptr : known->second;
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
