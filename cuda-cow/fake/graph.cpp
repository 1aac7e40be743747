// SPDX-License-Identifier: MIT
//
// Launches of kernels, and graphs: what is captured from a stream, its nodes, and its
// launches. The nodes of a graph run one after the other.
#include "cuda-cow/fake/device.hpp"
#include "cuda-cow/fake/image.hpp"

#include <algorithm>

namespace upm::cuda::abi {

struct GraphExecObject {
    std::vector<GraphNode> sources; // nodes of the graph it was made from
    std::vector<std::function<void()>> work;
};

} // namespace upm::cuda::abi

namespace upm::cuda::fake {

abi::GraphNodeObject make_launch(const abi::KernelNodeParams &params) {
    abi::GraphNodeObject node;
    const unsigned threads = params.block_x * params.block_y * params.block_z;
    if (params.function == nullptr || params.grid_x * params.grid_y * params.grid_z == 0 ||
        threads == 0 || threads > 1024 || params.extra != nullptr)
        return node;
    const ImageFunction &description = *params.function->description;
    node.type = abi::kNodeKernel;
    node.values = std::make_shared<std::vector<std::vector<char>>>();
    for (std::size_t i = 0; i < description.parameters; ++i) {
        const auto *const from = static_cast<const char *>(params.parameters[i]);
        node.values->emplace_back(from, from + description.sizes[i]);
    }
    for (std::vector<char> &value : *node.values)
        node.pointers.push_back(value.data());
    node.kernel = params;
    const Launch launch{{params.grid_x, params.grid_y, params.grid_z},
                        {params.block_x, params.block_y, params.block_z}};
    node.work = [values = node.values, launch, run = description.run] {
        void *pointers[kMaxParameters] = {};
        for (std::size_t i = 0; i < values->size(); ++i)
            pointers[i] = (*values)[i].data();
        run(launch, pointers);
    };
    return node;
}

// What a graph's copies and memsets write must be writable when it is made into something
// that can be launched; that it is at the launch the driver does not check.
bool is_writable(const abi::GraphNodeObject &node) {
    if (node.type == abi::kNodeMemset)
        return is_mapped(node.set.to, node.set.width * node.set.element_bytes,
                         abi::kAccessReadWrite);
    return node.type != abi::kNodeMemcpy || node.copy.to.memory_type != abi::kMemoryDevice ||
           node.copy.height * node.copy.depth != 1 ||
           is_mapped(node.copy.to.device + node.copy.to.x_bytes, node.copy.width_bytes,
                     abi::kAccessReadWrite);
}

} // namespace upm::cuda::fake

using namespace upm::cuda;
using fake::device;
using fake::enter;

// NOLINTBEGIN(readability-identifier-naming)
#pragma GCC visibility push(default)
extern "C" {

abi::Status cuLaunchKernel(abi::Function function, unsigned grid_x, unsigned grid_y,
                           unsigned grid_z, unsigned block_x, unsigned block_y, unsigned block_z,
                           unsigned shared_bytes, abi::Stream stream, void **parameters,
                           void **extra) {
    if (const abi::Status status = enter("cuLaunchKernel", true); status != abi::kSuccess)
        return status;
    abi::GraphNodeObject node = fake::make_launch({.function = function,
                                                   .grid_x = grid_x,
                                                   .grid_y = grid_y,
                                                   .grid_z = grid_z,
                                                   .block_x = block_x,
                                                   .block_y = block_y,
                                                   .block_z = block_z,
                                                   .shared_bytes = shared_bytes,
                                                   .parameters = parameters,
                                                   .extra = extra,
                                                   .kernel = nullptr,
                                                   .context = nullptr});
    if (node.work == nullptr)
        return abi::kInvalidValue;
    auto work = node.work;
    return fake::enqueue(stream, std::move(work), false, std::move(node));
}

abi::Status cuLaunchKernel_ptsz(abi::Function function, unsigned grid_x, unsigned grid_y,
                                unsigned grid_z, unsigned block_x, unsigned block_y,
                                unsigned block_z, unsigned shared_bytes, abi::Stream stream,
                                void **parameters, void **extra) {
    return cuLaunchKernel(function, grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes,
                          stream, parameters, extra);
}

abi::Status cuLaunchKernelEx(const abi::LaunchConfig *config, abi::Function function,
                             void **parameters, void **extra) {
    return cuLaunchKernel(function, config->grid_x, config->grid_y, config->grid_z, config->block_x,
                          config->block_y, config->block_z, config->shared_bytes, config->stream,
                          parameters, extra);
}

// One after the other: the fake has one device.
abi::Status cuLaunchCooperativeKernelMultiDevice(abi::LaunchParams *all, unsigned count,
                                                 unsigned /*flags*/) {
    abi::Status status = abi::kSuccess;
    for (unsigned i = 0; i < count && status == abi::kSuccess; ++i)
        status = cuLaunchKernel(all[i].function, all[i].grid_x, all[i].grid_y, all[i].grid_z,
                                all[i].block_x, all[i].block_y, all[i].block_z, all[i].shared_bytes,
                                all[i].stream, all[i].parameters, nullptr);
    return status;
}

abi::Status cuStreamBeginCapture_v2(abi::Stream stream, int /*mode*/) {
    if (const abi::Status status = enter("cuStreamBeginCapture", true); status != abi::kSuccess)
        return status;
    const std::lock_guard<std::mutex> guard(device().stream_lock);
    const auto found = fake::find_stream(stream);
    if (found == nullptr || found == device().legacy || found->capture != nullptr)
        return abi::kInvalidValue;
    found->capture = std::make_shared<abi::GraphObject>();
    return abi::kSuccess;
}

// Graphs are never freed: they are small, and programs of tests.
abi::Status cuStreamEndCapture(abi::Stream stream, abi::Graph *graph) {
    if (const abi::Status status = enter("cuStreamEndCapture", true); status != abi::kSuccess)
        return status;
    const std::lock_guard<std::mutex> guard(device().stream_lock);
    const auto found = fake::find_stream(stream);
    if (found == nullptr || found->capture == nullptr)
        return abi::kInvalidValue;
    static std::vector<std::shared_ptr<abi::GraphObject>> made;
    const std::shared_ptr<abi::GraphObject> captured = std::move(found->capture);
    *graph = captured->invalidated ? nullptr : made.emplace_back(captured).get();
    return captured->invalidated ? abi::kStreamCaptureInvalidated : abi::kSuccess;
}

abi::Status cuStreamIsCapturing(abi::Stream stream, int *status) {
    const std::lock_guard<std::mutex> guard(device().stream_lock);
    const auto found = fake::find_stream(stream);
    if (found == nullptr)
        return abi::kInvalidHandle;
    *status = found->capture != nullptr ? abi::kCaptureActive : abi::kCaptureNone;
    return abi::kSuccess;
}

abi::Status cuGraphGetNodes(abi::Graph graph, abi::GraphNode *nodes, std::size_t *count) {
    if (nodes != nullptr)
        for (std::size_t i = 0; i < std::min(*count, graph->nodes.size()); ++i)
            nodes[i] = &graph->nodes[i];
    *count = graph->nodes.size();
    return abi::kSuccess;
}

abi::Status cuGraphNodeGetType(abi::GraphNode node, int *type) {
    *type = node->type;
    return abi::kSuccess;
}

abi::Status cuGraphKernelNodeGetParams_v2(abi::GraphNode node, abi::KernelNodeParams *params) {
    if (node->type != abi::kNodeKernel)
        return abi::kInvalidValue;
    *params = node->kernel;
    params->parameters = node->pointers.data();
    return abi::kSuccess;
}

abi::Status cuGraphMemcpyNodeGetParams(abi::GraphNode node, abi::Copy3D *params) {
    if (node->type != abi::kNodeMemcpy)
        return abi::kInvalidValue;
    *params = node->copy;
    return abi::kSuccess;
}

abi::Status cuGraphMemsetNodeGetParams(abi::GraphNode node, abi::MemsetNodeParams *params) {
    if (node->type != abi::kNodeMemset)
        return abi::kInvalidValue;
    *params = node->set;
    return abi::kSuccess;
}

abi::Status cuGraphInstantiateWithFlags(abi::GraphExec *exec, abi::Graph graph,
                                        unsigned long long /*flags*/) {
    if (const abi::Status status = enter("cuGraphInstantiate", true); status != abi::kSuccess)
        return status;
    if (!std::all_of(graph->nodes.begin(), graph->nodes.end(), fake::is_writable))
        return abi::kInvalidValue;
    auto *const made = new abi::GraphExecObject; // NOLINT(cppcoreguidelines-owning-memory)
    for (abi::GraphNodeObject &node : graph->nodes) {
        made->sources.push_back(&node);
        made->work.push_back(node.work);
    }
    *exec = made;
    return abi::kSuccess;
}

abi::Status cuGraphExecKernelNodeSetParams_v2(abi::GraphExec exec, abi::GraphNode node,
                                              const abi::KernelNodeParams *params) {
    const auto found = std::find(exec->sources.begin(), exec->sources.end(), node);
    abi::GraphNodeObject made = fake::make_launch(*params);
    if (found == exec->sources.end() || made.work == nullptr)
        return abi::kInvalidValue;
    exec->work[static_cast<std::size_t>(found - exec->sources.begin())] = made.work;
    return abi::kSuccess;
}

abi::Status cuGraphLaunch(abi::GraphExec exec, abi::Stream stream) {
    if (const abi::Status status = enter("cuGraphLaunch", true); status != abi::kSuccess)
        return status;
    return fake::enqueue(
        stream,
        [work = exec->work] {
            for (const auto &one : work)
                one();
        },
        false);
}

abi::Status cuGraphExecDestroy(abi::GraphExec exec) {
    delete exec; // NOLINT(cppcoreguidelines-owning-memory)
    return abi::kSuccess;
}
}
#pragma GCC visibility pop
// NOLINTEND(readability-identifier-naming)
