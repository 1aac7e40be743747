// SPDX-License-Identifier: MIT
//
// The fake's start, device, copies, modules and launches.
#include "cuda-cow/fake/control.hpp"
#include "cuda-cow/fake/device.hpp"
#include "cuda-cow/fake/image.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <string>
#include <unistd.h>

namespace upm::cuda::abi {

struct FunctionObject {
    const fake::ImageFunction *description;
};

struct ModuleObject {
    std::deque<FunctionObject> functions;
};

struct ContextObject {};

} // namespace upm::cuda::abi

namespace upm::cuda::fake {

thread_local bool context_is_current = false;

namespace {

abi::ContextObject primary;

// What a copy or memset may be told: device memory, all of it mapped.
bool bad_range(abi::DevicePtr address, std::size_t bytes) {
    return bytes != 0 && !is_mapped(address, bytes);
}

void *at(abi::DevicePtr address) {
    return reinterpret_cast<void *>(address);
}

// From pageable memory: the driver has taken the bytes when the call returns.
abi::Status copy_from_host(const char *call, abi::DevicePtr to, const void *from, std::size_t bytes,
                           abi::Stream stream, bool wait) {
    if (const abi::Status status = enter(call, true); status != abi::kSuccess)
        return status;
    if (from == nullptr || bad_range(to, bytes))
        return abi::kInvalidValue;
    auto staged = std::make_shared<std::vector<char>>(static_cast<const char *>(from),
                                                      static_cast<const char *>(from) + bytes);
    return enqueue(
        stream, [staged, to] { std::memcpy(at(to), staged->data(), staged->size()); }, wait);
}

// To pageable memory: returns when it is done, asynchronous or not.
abi::Status copy_to_host(const char *call, void *to, abi::DevicePtr from, std::size_t bytes,
                         abi::Stream stream) {
    if (const abi::Status status = enter(call, true); status != abi::kSuccess)
        return status;
    if (to == nullptr || bad_range(from, bytes))
        return abi::kInvalidValue;
    return enqueue(
        stream, [=] { std::memcpy(to, at(from), bytes); }, true);
}

abi::Status copy(const char *call, abi::DevicePtr to, abi::DevicePtr from, std::size_t bytes,
                 abi::Stream stream) {
    if (const abi::Status status = enter(call, true); status != abi::kSuccess)
        return status;
    if (bad_range(to, bytes) || bad_range(from, bytes))
        return abi::kInvalidValue;
    return enqueue(
        stream, [=] { std::memmove(at(to), at(from), bytes); }, false);
}

template <class Value>
abi::Status set(const char *call, abi::DevicePtr to, Value value, std::size_t count,
                abi::Stream stream) {
    if (const abi::Status status = enter(call, true); status != abi::kSuccess)
        return status;
    if (to % sizeof(Value) != 0 || bad_range(to, count * sizeof(Value)))
        return abi::kInvalidValue;
    return enqueue(
        stream,
        [=] {
            auto *const values = static_cast<volatile Value *>(at(to));
            for (std::size_t i = 0; i < count; ++i)
                values[i] = value;
        },
        false);
}

} // namespace

} // namespace upm::cuda::fake

using namespace upm::cuda;
using fake::device;
using fake::enter;

// NOLINTBEGIN(readability-identifier-naming)
#pragma GCC visibility push(default)
extern "C" {

abi::Status cuInit(unsigned flags) {
    if (flags != 0)
        return abi::kInvalidValue;
    fake::Device &all = device();
    const std::lock_guard<std::mutex> guard(all.lock);
    if (all.initialized_pid == ::getpid())
        return abi::kSuccess;
    if (all.initialized_pid != 0)
        return abi::kNotInitialized; // the child of a fork
    const char *const settings = ::secure_getenv("UPM_CUDA_FAKE");
    if (settings != nullptr && fake::configure(settings, all.settings) != 0) {
        (void)std::fprintf(stderr, "UPM_CUDA_FAKE: cannot understand '%s'\n", settings);
        return abi::kInvalidValue;
    }
    fake::install_fault_handler();
    all.legacy = std::make_shared<abi::StreamObject>(true);
    all.legacy->start();
    all.initialized_pid = ::getpid();
    return abi::kSuccess;
}

abi::Status cuDriverGetVersion(int *version) {
    *version = 13000;
    return abi::kSuccess;
}

abi::Status cuGetErrorName(abi::Status error, const char **name) {
    switch (error) {
    case abi::kSuccess:
        *name = "CUDA_SUCCESS";
        break;
    case abi::kInvalidValue:
        *name = "CUDA_ERROR_INVALID_VALUE";
        break;
    case abi::kOutOfMemory:
        *name = "CUDA_ERROR_OUT_OF_MEMORY";
        break;
    case abi::kNotInitialized:
        *name = "CUDA_ERROR_NOT_INITIALIZED";
        break;
    case abi::kInvalidDevice:
        *name = "CUDA_ERROR_INVALID_DEVICE";
        break;
    case abi::kInvalidContext:
        *name = "CUDA_ERROR_INVALID_CONTEXT";
        break;
    case abi::kInvalidImage:
        *name = "CUDA_ERROR_INVALID_IMAGE";
        break;
    case abi::kInvalidHandle:
        *name = "CUDA_ERROR_INVALID_HANDLE";
        break;
    case abi::kNotFound:
        *name = "CUDA_ERROR_NOT_FOUND";
        break;
    case abi::kIllegalAddress:
        *name = "CUDA_ERROR_ILLEGAL_ADDRESS";
        break;
    case abi::kLaunchFailed:
        *name = "CUDA_ERROR_LAUNCH_FAILED";
        break;
    case abi::kUnknown:
        *name = "CUDA_ERROR_UNKNOWN";
        break;
    default:
        *name = nullptr;
        return abi::kInvalidValue;
    }
    return abi::kSuccess;
}

abi::Status cuDeviceGet(abi::Device *made, int ordinal) {
    if (const abi::Status status = enter("cuDeviceGet", false); status != abi::kSuccess)
        return status;
    if (ordinal != 0)
        return abi::kInvalidDevice;
    *made = 0;
    return abi::kSuccess;
}

abi::Status cuDeviceGetCount(int *count) {
    *count = 1;
    return abi::kSuccess;
}

abi::Status cuDeviceGetName(char *name, int length, abi::Device which) {
    if (which != 0)
        return abi::kInvalidDevice;
    (void)std::snprintf(name, static_cast<std::size_t>(length), "fake GPU in host memory");
    return abi::kSuccess;
}

abi::Status cuDeviceGetUuid_v2(abi::Uuid *uuid, abi::Device which) {
    if (which != 0)
        return abi::kInvalidDevice;
    std::memcpy(uuid->bytes, "upm-fake-gpu-000", sizeof uuid->bytes);
    return abi::kSuccess;
}

abi::Status cuDeviceGetAttribute(int *value, int attribute, abi::Device which) {
    if (which != 0)
        return abi::kInvalidDevice;
    switch (attribute) {
    case abi::kAttributeMultiprocessors:
        *value = 2;
        break;
    case abi::kAttributeVmm:
    case abi::kAttributePosixFd:
        *value = 1;
        break;
    default:
        return abi::kInvalidValue;
    }
    return abi::kSuccess;
}

abi::Status cuDevicePrimaryCtxRetain(abi::Context *context, abi::Device which) {
    if (const abi::Status status = enter("cuDevicePrimaryCtxRetain", false);
        status != abi::kSuccess)
        return status;
    if (which != 0)
        return abi::kInvalidDevice;
    *context = &fake::primary;
    return abi::kSuccess;
}

abi::Status cuDevicePrimaryCtxRelease_v2(abi::Device which) {
    return which == 0 ? abi::kSuccess : abi::kInvalidDevice;
}

abi::Status cuCtxSetCurrent(abi::Context context) {
    if (context != nullptr && context != &fake::primary)
        return abi::kInvalidContext;
    fake::context_is_current = context != nullptr;
    return abi::kSuccess;
}

abi::Status cuCtxGetCurrent(abi::Context *context) {
    *context = fake::context_is_current ? &fake::primary : nullptr;
    return abi::kSuccess;
}

abi::Status cuMemGetInfo_v2(std::size_t *available, std::size_t *total) {
    if (const abi::Status status = enter("cuMemGetInfo", true); status != abi::kSuccess)
        return status;
    fake::Device &all = device();
    const std::lock_guard<std::mutex> guard(all.lock);
    *total = all.settings.memory != 0 ? all.settings.memory : 80UL << 30;
    *available = *total - all.created_bytes;
    return abi::kSuccess;
}

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

abi::Status cuModuleLoadData(abi::Module *module, const void *image) {
    if (const abi::Status status = enter("cuModuleLoadData", true); status != abi::kSuccess)
        return status;
    if (module == nullptr || image == nullptr)
        return abi::kInvalidValue;
    const auto &header = *static_cast<const fake::Image *>(image);
    if (header.magic != fake::kImageMagic)
        return abi::kInvalidImage;
    auto made = std::make_unique<abi::ModuleObject>();
    for (std::size_t i = 0; i < header.count; ++i)
        made->functions.push_back({&header.functions[i]});
    *module = made.release();
    return abi::kSuccess;
}

abi::Status cuModuleUnload(abi::Module module) {
    if (const abi::Status status = enter("cuModuleUnload", true); status != abi::kSuccess)
        return status;
    delete module;
    return abi::kSuccess;
}

abi::Status cuModuleGetFunction(abi::Function *function, abi::Module module, const char *name) {
    if (const abi::Status status = enter("cuModuleGetFunction", true); status != abi::kSuccess)
        return status;
    for (abi::FunctionObject &candidate : module->functions) {
        if (std::strcmp(candidate.description->name, name) == 0) {
            *function = &candidate;
            return abi::kSuccess;
        }
    }
    return abi::kNotFound;
}

abi::Status cuFuncGetName(const char **name, abi::Function function) {
    *name = function->description->name;
    return abi::kSuccess;
}

// In the device's layout each parameter is aligned to its size, up to 8 here.
abi::Status cuFuncGetParamInfo(abi::Function function, std::size_t index, std::size_t *offset,
                               std::size_t *size) {
    const fake::ImageFunction &description = *function->description;
    if (index >= description.parameters)
        return abi::kInvalidValue;
    std::size_t position = 0;
    for (std::size_t i = 0; i <= index; ++i) {
        const std::size_t bytes = description.sizes[i];
        const std::size_t alignment = bytes >= 8 ? 8 : bytes;
        position = (position + alignment - 1) / alignment * alignment;
        if (i < index)
            position += bytes;
    }
    *offset = position;
    if (size != nullptr)
        *size = description.sizes[index];
    return abi::kSuccess;
}

abi::Status cuLaunchKernel(abi::Function function, unsigned grid_x, unsigned grid_y,
                           unsigned grid_z, unsigned block_x, unsigned block_y, unsigned block_z,
                           unsigned /*shared_bytes*/, abi::Stream stream, void **parameters,
                           void **extra) {
    if (const abi::Status status = enter("cuLaunchKernel", true); status != abi::kSuccess)
        return status;
    if (function == nullptr || grid_x * grid_y * grid_z == 0 || block_x * block_y * block_z == 0 ||
        block_x * block_y * block_z > 1024 || extra != nullptr)
        return abi::kInvalidValue;
    const fake::ImageFunction &description = *function->description;
    auto values = std::make_shared<std::vector<std::vector<char>>>();
    for (std::size_t i = 0; i < description.parameters; ++i) {
        const auto *const from = static_cast<const char *>(parameters[i]);
        values->emplace_back(from, from + description.sizes[i]);
    }
    const fake::Launch launch{{grid_x, grid_y, grid_z}, {block_x, block_y, block_z}};
    return fake::enqueue(
        stream,
        [values, launch, run = description.run] {
            void *pointers[fake::kMaxParameters] = {};
            for (std::size_t i = 0; i < values->size(); ++i)
                pointers[i] = (*values)[i].data();
            run(launch, pointers);
        },
        false);
}

abi::Status cuLaunchKernelEx(const abi::LaunchConfig *config, abi::Function function,
                             void **parameters, void **extra) {
    return cuLaunchKernel(function, config->grid_x, config->grid_y, config->grid_z, config->block_x,
                          config->block_y, config->block_z, config->shared_bytes, config->stream,
                          parameters, extra);
}

// Finds what this library exports, newest version first, as the real one does.
abi::Status cuGetProcAddress_v2(const char *symbol, void **found, int /*version*/,
                                std::uint64_t /*flags*/, int *status) {
    Dl_info self = {};
    (void)::dladdr(reinterpret_cast<void *>(&cuInit), &self);
    void *const library = ::dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    *found = library == nullptr ? nullptr : ::dlsym(library, (std::string(symbol) + "_v2").c_str());
    if (*found == nullptr && library != nullptr)
        *found = ::dlsym(library, symbol);
    if (status != nullptr)
        *status = *found != nullptr ? 0 : 1;
    return *found != nullptr ? abi::kSuccess : abi::kNotFound;
}

abi::Status cuGetProcAddress(const char *symbol, void **found, int version, std::uint64_t flags) {
    return cuGetProcAddress_v2(symbol, found, version, flags, nullptr);
}
}
#pragma GCC visibility pop
// NOLINTEND(readability-identifier-naming)
