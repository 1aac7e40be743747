// SPDX-License-Identifier: MIT
//
// The fake's copies and memsets.
#include "cuda-cow/fake/device.hpp"

#include <cstring>

namespace upm::cuda::fake {

namespace {

// What a copy or memset may be told: device memory, all of it mapped, with that access. It
// is looked at by the call, before there is any work that could fail.
bool bad_range(abi::DevicePtr address, std::size_t bytes, int access) {
    return bytes != 0 && !is_mapped(address, bytes, access);
}
bool bad_source(abi::DevicePtr address, std::size_t bytes) {
    return bad_range(address, bytes, abi::kAccessRead);
}
// What is captured is looked at when it runs.
bool bad_target(abi::DevicePtr address, std::size_t bytes, abi::Stream stream) {
    return bad_range(address, bytes,
                     is_captured(stream) ? abi::kAccessNone : abi::kAccessReadWrite);
}

void *at(abi::DevicePtr address) {
    return reinterpret_cast<void *>(address);
}

abi::Copy3DEnd device_end(abi::DevicePtr address) {
    abi::Copy3DEnd end = {};
    end.memory_type = abi::kMemoryDevice;
    end.device = address;
    return end;
}

abi::Copy3DEnd host_end(void *address) {
    abi::Copy3DEnd end = {};
    end.memory_type = abi::kMemoryHost;
    end.host = address;
    return end;
}

abi::GraphNodeObject describe(const abi::Copy3DEnd &to, const abi::Copy3DEnd &from,
                              std::size_t bytes) {
    abi::GraphNodeObject node;
    node.type = abi::kNodeMemcpy;
    node.copy = {.from = from, .to = to, .width_bytes = bytes, .height = 1, .depth = 1};
    return node;
}

abi::GraphNodeObject describe_set(abi::DevicePtr to, unsigned value, std::size_t element,
                                  std::size_t count) {
    abi::GraphNodeObject node;
    node.type = abi::kNodeMemset;
    node.set = {.to = to,
                .pitch = 0,
                .value = value,
                .element_bytes = static_cast<unsigned>(element),
                .width = count,
                .height = 1};
    return node;
}

// From pageable memory: the driver has taken the bytes when the call returns.
abi::Status copy_from_host(const char *call, abi::DevicePtr to, const void *from, std::size_t bytes,
                           abi::Stream stream, bool wait) {
    if (const abi::Status status = enter(call, true); status != abi::kSuccess)
        return status;
    if (from == nullptr || bad_target(to, bytes, stream))
        return abi::kInvalidValue;
    auto staged = std::make_shared<std::vector<char>>(static_cast<const char *>(from),
                                                      static_cast<const char *>(from) + bytes);
    return enqueue(
        stream, [staged, to] { std::memcpy(at(to), staged->data(), staged->size()); }, wait,
        describe(device_end(to), host_end(staged->data()), bytes));
}

// To pageable memory: returns when it is done, asynchronous or not.
abi::Status copy_to_host(const char *call, void *to, abi::DevicePtr from, std::size_t bytes,
                         abi::Stream stream) {
    if (const abi::Status status = enter(call, true); status != abi::kSuccess)
        return status;
    if (to == nullptr || bad_source(from, bytes))
        return abi::kInvalidValue;
    return enqueue(
        stream, [=] { std::memcpy(to, at(from), bytes); }, true);
}

abi::Status copy(const char *call, abi::DevicePtr to, abi::DevicePtr from, std::size_t bytes,
                 abi::Stream stream) {
    if (const abi::Status status = enter(call, true); status != abi::kSuccess)
        return status;
    if (bad_target(to, bytes, stream) || bad_source(from, bytes))
        return abi::kInvalidValue;
    return enqueue(
        stream, [=] { std::memmove(at(to), at(from), bytes); }, false,
        describe(device_end(to), device_end(from), bytes));
}

template <class Value>
abi::Status set(const char *call, abi::DevicePtr to, Value value, std::size_t count,
                abi::Stream stream) {
    if (const abi::Status status = enter(call, true); status != abi::kSuccess)
        return status;
    if (to % sizeof(Value) != 0 || bad_target(to, count * sizeof(Value), stream))
        return abi::kInvalidValue;
    return enqueue(
        stream,
        [=] {
            auto *const values = static_cast<volatile Value *>(at(to));
            for (std::size_t i = 0; i < count; ++i)
                values[i] = value;
        },
        false, describe_set(to, static_cast<unsigned>(value), sizeof(Value), count));
}

// One end of a copy in three dimensions.
struct Volume {
    char *start = nullptr;
    std::size_t pitch = 0;
    std::size_t slice = 0;
    bool host = false;
    bool bad = false;
};

Volume volume(const abi::Copy3DEnd &end, const abi::Copy3D &copy, int access) {
    Volume made{.pitch = end.pitch,
                .slice = end.pitch * (end.height != 0 ? end.height : copy.height)};
    made.host = end.memory_type == abi::kMemoryHost;
    char *const base =
        made.host ? static_cast<char *>(end.host) : static_cast<char *>(at(end.device));
    made.start = base + end.z * made.slice + end.y * made.pitch + end.x_bytes;
    const std::size_t bytes =
        (copy.depth - 1) * made.slice + (copy.height - 1) * made.pitch + copy.width_bytes;
    made.bad =
        (!made.host && end.memory_type != abi::kMemoryDevice) ||
        (!made.host && bad_range(reinterpret_cast<abi::DevicePtr>(made.start), bytes, access)) ||
        (copy.height * copy.depth > 1 && made.pitch < copy.width_bytes);
    return made;
}

abi::Status copy_volume(const char *call, const abi::Copy3D *copy, abi::Stream stream) {
    if (const abi::Status status = enter(call, true); status != abi::kSuccess)
        return status;
    if (copy == nullptr || copy->width_bytes * copy->height * copy->depth == 0)
        return abi::kInvalidValue;
    const Volume to =
        volume(copy->to, *copy, is_captured(stream) ? abi::kAccessNone : abi::kAccessReadWrite);
    const Volume from = volume(copy->from, *copy, abi::kAccessRead);
    if (to.bad || from.bad)
        return abi::kInvalidValue;
    abi::GraphNodeObject node;
    node.type = abi::kNodeMemcpy;
    node.copy = *copy;
    return enqueue(
        stream,
        [to, from, copied = *copy] {
            for (std::size_t z = 0; z < copied.depth; ++z)
                for (std::size_t y = 0; y < copied.height; ++y)
                    std::memmove(to.start + z * to.slice + y * to.pitch,
                                 from.start + z * from.slice + y * from.pitch, copied.width_bytes);
        },
        to.host || from.host, std::move(node));
}

abi::Copy3DEnd deeper(const abi::Copy2DEnd &end) {
    return {.x_bytes = end.x_bytes,
            .y = end.y,
            .z = 0,
            .level = 0,
            .memory_type = end.memory_type,
            .host = end.host,
            .device = end.device,
            .array = end.array,
            .context = nullptr,
            .pitch = end.pitch,
            .height = 0};
}

abi::Status copy_plane(const char *call, const abi::Copy2D *copy, abi::Stream stream) {
    if (copy == nullptr)
        return abi::kInvalidValue;
    const abi::Copy3D whole{.from = deeper(copy->from),
                            .to = deeper(copy->to),
                            .width_bytes = copy->width_bytes,
                            .height = copy->height,
                            .depth = 1};
    return copy_volume(call, &whole, stream);
}

// Either end may be memory of the host.
abi::Status copy_unified(const char *call, abi::DevicePtr to, abi::DevicePtr from,
                         std::size_t bytes, abi::Stream stream) {
    const bool to_device = is_mapped(to, bytes);
    if (to_device && is_mapped(from, bytes))
        return copy(call, to, from, bytes, stream);
    if (to_device)
        return copy_from_host(call, to, at(from), bytes, stream, true);
    return copy_to_host(call, at(to), from, bytes, stream);
}

} // namespace

} // namespace upm::cuda::fake

using namespace upm::cuda;

// NOLINTBEGIN(readability-identifier-naming)
#pragma GCC visibility push(default)
extern "C" {

abi::Status cuMemcpyHtoD_v2(abi::DevicePtr to, const void *from, std::size_t bytes) {
    return fake::copy_from_host("cuMemcpyHtoD", to, from, bytes, nullptr, true);
}

abi::Status cuMemcpyHtoDAsync_v2(abi::DevicePtr to, const void *from, std::size_t bytes,
                                 abi::Stream stream) {
    return fake::copy_from_host("cuMemcpyHtoDAsync", to, from, bytes, stream, false);
}

abi::Status cuMemcpyDtoH_v2(void *to, abi::DevicePtr from, std::size_t bytes) {
    return fake::copy_to_host("cuMemcpyDtoH", to, from, bytes, nullptr);
}

abi::Status cuMemcpyDtoHAsync_v2(void *to, abi::DevicePtr from, std::size_t bytes,
                                 abi::Stream stream) {
    return fake::copy_to_host("cuMemcpyDtoHAsync", to, from, bytes, stream);
}

// Does not wait: neither does the real one, for two device addresses.
abi::Status cuMemcpyDtoD_v2(abi::DevicePtr to, abi::DevicePtr from, std::size_t bytes) {
    return fake::copy("cuMemcpyDtoD", to, from, bytes, nullptr);
}

abi::Status cuMemcpyDtoDAsync_v2(abi::DevicePtr to, abi::DevicePtr from, std::size_t bytes,
                                 abi::Stream stream) {
    return fake::copy("cuMemcpyDtoDAsync", to, from, bytes, stream);
}

abi::Status cuMemsetD8_v2(abi::DevicePtr to, unsigned char value, std::size_t bytes) {
    return fake::set("cuMemsetD8", to, value, bytes, nullptr);
}

abi::Status cuMemsetD8Async(abi::DevicePtr to, unsigned char value, std::size_t bytes,
                            abi::Stream stream) {
    return fake::set("cuMemsetD8Async", to, value, bytes, stream);
}

abi::Status cuMemsetD32_v2(abi::DevicePtr to, unsigned value, std::size_t count) {
    return fake::set("cuMemsetD32", to, value, count, nullptr);
}

abi::Status cuMemsetD32Async(abi::DevicePtr to, unsigned value, std::size_t count,
                             abi::Stream stream) {
    return fake::set("cuMemsetD32Async", to, value, count, stream);
}

abi::Status cuMemcpy(abi::DevicePtr to, abi::DevicePtr from, std::size_t bytes) {
    return fake::copy_unified("cuMemcpy", to, from, bytes, nullptr);
}

abi::Status cuMemcpyAsync(abi::DevicePtr to, abi::DevicePtr from, std::size_t bytes,
                          abi::Stream stream) {
    return fake::copy_unified("cuMemcpyAsync", to, from, bytes, stream);
}

// There is one context.
abi::Status cuMemcpyPeer(abi::DevicePtr to, abi::Context /*there*/, abi::DevicePtr from,
                         abi::Context /*here*/, std::size_t bytes) {
    return fake::copy("cuMemcpyPeer", to, from, bytes, nullptr);
}

abi::Status cuMemcpy2D_v2(const abi::Copy2D *copy) {
    return fake::copy_plane("cuMemcpy2D", copy, nullptr);
}

abi::Status cuMemcpy2DAsync_v2(const abi::Copy2D *copy, abi::Stream stream) {
    return fake::copy_plane("cuMemcpy2DAsync", copy, stream);
}

abi::Status cuMemcpy3D_v2(const abi::Copy3D *copy) {
    return fake::copy_volume("cuMemcpy3D", copy, nullptr);
}

abi::Status cuMemcpyBatchAsync_v2(abi::DevicePtr *to, abi::DevicePtr *from, std::size_t *bytes,
                                  std::size_t count, void * /*attributes*/, std::size_t * /*at*/,
                                  std::size_t /*attribute_count*/, abi::Stream stream) {
    abi::Status status = abi::kSuccess;
    for (std::size_t i = 0; i < count && status == abi::kSuccess; ++i)
        status = fake::copy_unified("cuMemcpyBatchAsync", to[i], from[i], bytes[i], stream);
    return status;
}

abi::Status cuMemsetD2D8_v2(abi::DevicePtr to, std::size_t pitch, unsigned char value,
                            std::size_t width, std::size_t height) {
    abi::Status status = abi::kSuccess;
    for (std::size_t y = 0; y < height && status == abi::kSuccess; ++y)
        status = fake::set("cuMemsetD2D8", to + y * pitch, value, width, nullptr);
    return status;
}

// For the default stream of the thread, which is the legacy one here.
abi::Status cuMemsetD8_v2_ptds(abi::DevicePtr to, unsigned char value, std::size_t bytes) {
    return cuMemsetD8_v2(to, value, bytes);
}

abi::Status cuMemcpyDtoD_v2_ptds(abi::DevicePtr to, abi::DevicePtr from, std::size_t bytes) {
    return cuMemcpyDtoD_v2(to, from, bytes);
}
}
#pragma GCC visibility pop
// NOLINTEND(readability-identifier-naming)
