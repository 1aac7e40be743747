// SPDX-License-Identifier: MIT
#include "cuda-cow/driver/driver.hpp"

#include "libupm/base/env.hpp"
#include <upm/cuda.hpp>

#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <dlfcn.h>

namespace upm::cuda {

namespace {

thread_local char error_text[512]; // NOLINT(cppcoreguidelines-avoid-non-const-global-variables)

template <class Pointer>
bool find(void *library, const char *symbol, Pointer &to) noexcept {
    to = reinterpret_cast<Pointer>(::dlsym(library, symbol));
    return to != nullptr;
}

int fill(void *library, const char *path, DriverApi &api) noexcept {
#define UPM_CUDA_REQUIRED(member, symbol, parameters)                                              \
    if (!find(library, #symbol, api.member))                                                       \
        return fail(ENOSYS, "%s has no %s: the driver is too old", path, #symbol);
    UPM_CUDA_DRIVER_CALLS(UPM_CUDA_REQUIRED)
#undef UPM_CUDA_REQUIRED
#define UPM_CUDA_OPTIONAL(member, symbol, parameters) (void)find(library, #symbol, api.member);
    UPM_CUDA_OPTIONAL_CALLS(UPM_CUDA_OPTIONAL)
#undef UPM_CUDA_OPTIONAL
    api.fake_image = ::dlsym(library, "upm_fake_kernel_image");
    return 0;
}

} // namespace

const char *last_error() noexcept {
    return error_text;
}

int fail(int error, const char *format, ...) noexcept {
    va_list arguments;
    va_start(arguments, format);
    // NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): it does not know va_start here
    (void)std::vsnprintf(error_text, sizeof error_text, format, arguments);
    va_end(arguments);
    return error;
}

bool &inside_library() noexcept {
    // Asked at each launch; a byte of the static TLS that glibc keeps for libraries.
    [[gnu::tls_model("initial-exec")]] thread_local bool inside = false;
    return inside;
}

Result<DriverApi> load_driver(const char *path) noexcept {
    const InsideLibrary inside;
    if (path == nullptr || *path == '\0')
        path = env::get(env::cuda_driver);
    DriverApi api;
    void *const library = ::dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (library == nullptr)
        return {api, fail(ENOENT, "no CUDA driver: %s", ::dlerror())};
    if (const int error = fill(library, path, api); error != 0)
        return {DriverApi{}, error};
    if (const abi::Status status = api.init(0); status != abi::kSuccess)
        return {DriverApi{},
                fail(error_of(status), "cuInit of %s: %s", path, status_text(api, status).c_str())};
    return api;
}

int error_of(abi::Status status) noexcept {
    switch (status) {
    case abi::kSuccess:
        return 0;
    case abi::kInvalidValue:
    case abi::kInvalidHandle:
    case abi::kInvalidContext:
        return EINVAL;
    case abi::kOutOfMemory:
        return ENOMEM;
    case abi::kNotInitialized:
    case abi::kDeinitialized:
    case abi::kNoDevice:
    case abi::kInvalidDevice:
        return ENODEV;
    case abi::kEccUncorrectable:
    case abi::kIllegalAddress:
    case abi::kLaunchTimeout:
    case abi::kContextIsDestroyed:
    case abi::kAssert:
    case abi::kHardwareStackError:
    case abi::kIllegalInstruction:
    case abi::kMisalignedAddress:
    case abi::kInvalidAddressSpace:
    case abi::kInvalidPc:
    case abi::kLaunchFailed:
        return EFAULT;
    case abi::kNotPermitted:
        return EPERM;
    case abi::kStreamCaptureUnsupported:
    case abi::kStreamCaptureInvalidated:
    case abi::kStreamCaptureImplicit:
    case abi::kStreamCaptureWrongThread:
        return EBUSY;
    case abi::kNotSupported:
        return EOPNOTSUPP;
    case abi::kNotFound:
        return ENOENT;
    case abi::kInvalidImage:
        return ENOEXEC;
    default:
        return EIO;
    }
}

std::string status_text(const DriverApi &api, abi::Status status) {
    const char *name = nullptr;
    if (api.error_name == nullptr || api.error_name(status, &name) != abi::kSuccess ||
        name == nullptr)
        name = "unknown error";
    return std::string(name) + " (" + std::to_string(status) + ")";
}

} // namespace upm::cuda
