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

struct ContextObject {};

} // namespace upm::cuda::abi

namespace upm::cuda::fake {

thread_local bool context_is_current = false;

namespace {

abi::ContextObject primary;

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

abi::Status cuCtxGetDevice(abi::Device *found) {
    if (!fake::context_is_current)
        return abi::kInvalidContext;
    *found = 0;
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
        made->functions.push_back({&header.functions[i], false});
    *module = made.release();
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

// A library is a module whose functions are kernels.
abi::Status cuLibraryLoadData(abi::Library *library, const void *image, int * /*jit*/,
                              void ** /*values*/, unsigned /*count*/, int * /*options*/,
                              void ** /*option_values*/, unsigned /*option_count*/) {
    abi::Module module = nullptr;
    const abi::Status status = cuModuleLoadData(&module, image);
    if (status != abi::kSuccess)
        return status;
    for (abi::FunctionObject &function : module->functions)
        function.is_kernel = true;
    *library = reinterpret_cast<abi::Library>(module);
    return abi::kSuccess;
}

abi::Status cuLibraryGetKernel(abi::Kernel *kernel, abi::Library library, const char *name) {
    return cuModuleGetFunction(reinterpret_cast<abi::Function *>(kernel),
                               reinterpret_cast<abi::Module>(library), name);
}

abi::Status cuLibraryEnumerateKernels(abi::Kernel *kernels, unsigned count, abi::Library library) {
    auto &functions = reinterpret_cast<abi::Module>(library)->functions;
    for (std::size_t i = 0; i < count && i < functions.size(); ++i)
        kernels[i] = reinterpret_cast<abi::Kernel>(&functions[i]);
    return abi::kSuccess;
}

abi::Status cuKernelGetFunction(abi::Function *function, abi::Kernel kernel) {
    const auto *const of = reinterpret_cast<abi::FunctionObject *>(kernel);
    static std::deque<abi::FunctionObject> made;
    const std::lock_guard<std::mutex> guard(device().lock);
    *function = &made.emplace_back(abi::FunctionObject{of->description, false});
    return abi::kSuccess;
}

abi::Status cuModuleUnload(abi::Module module) {
    if (const abi::Status status = enter("cuModuleUnload", true); status != abi::kSuccess)
        return status;
    delete module;
    return abi::kSuccess;
}

abi::Status cuFuncGetName(const char **name, abi::Function function) {
    if (function->is_kernel)
        return abi::kInvalidHandle;
    *name = function->description->name;
    return abi::kSuccess;
}

// In the device's layout each parameter is aligned to its size, up to 8 here.
abi::Status cuFuncGetParamInfo(abi::Function function, std::size_t index, std::size_t *offset,
                               std::size_t *size) {
    if (function->is_kernel)
        return abi::kInvalidHandle;
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

// Finds what this library exports, newest version first, as the real one does; with
// CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM (2), the function for that stream.
abi::Status cuGetProcAddress_v2(const char *symbol, void **found, int version, std::uint64_t flags,
                                int *status) {
    const bool old_synchronize = version < 13000 && std::strcmp(symbol, "cuCtxSynchronize") == 0;
    Dl_info self = {};
    (void)::dladdr(reinterpret_cast<void *>(&cuInit), &self);
    void *const library = ::dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    *found = nullptr;
    for (const char *version_suffix : {"_v2", "WithFlags", ""})
        for (const char *stream : {"_ptsz", "_ptds", ""})
            if (*found == nullptr && library != nullptr && ((flags & 2) != 0 || *stream == '\0') &&
                (!old_synchronize || *version_suffix == '\0'))
                *found = ::dlsym(library, (std::string(symbol) + version_suffix + stream).c_str());
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
