// SPDX-License-Identifier: MIT
//
// The driver behind one table of function pointers. The table is filled from a
// shared library at run time: libcuda.so.1, or the fake of cuda-cow/fake, which is
// a library of the same name and the same symbols. Nothing here links against CUDA.
#ifndef UPM_CUDA_DRIVER_DRIVER_HPP
#define UPM_CUDA_DRIVER_DRIVER_HPP

#include "cuda-cow/driver/abi.hpp"

#include <string>
#include <upm/upm.hpp>

// X(member, symbol, parameters): without these no GPU buffer can be shared.
#define UPM_CUDA_DRIVER_CALLS(X)                                                                   \
    X(init, cuInit, (unsigned flags))                                                              \
    X(driver_version, cuDriverGetVersion, (int *version))                                          \
    X(error_name, cuGetErrorName, (abi::Status error, const char **name))                          \
    X(device_get, cuDeviceGet, (abi::Device * device, int ordinal))                                \
    X(device_count, cuDeviceGetCount, (int *count))                                                \
    X(device_name, cuDeviceGetName, (char *name, int length, abi::Device device))                  \
    X(device_uuid, cuDeviceGetUuid_v2, (abi::Uuid * uuid, abi::Device device))                     \
    X(device_attribute, cuDeviceGetAttribute, (int *value, int attribute, abi::Device device))     \
    X(primary_retain, cuDevicePrimaryCtxRetain, (abi::Context * context, abi::Device device))      \
    X(primary_release, cuDevicePrimaryCtxRelease_v2, (abi::Device device))                         \
    X(ctx_set, cuCtxSetCurrent, (abi::Context context))                                            \
    X(ctx_get, cuCtxGetCurrent, (abi::Context * context))                                          \
    X(ctx_synchronize, cuCtxSynchronize, ())                                                       \
    X(stream_create, cuStreamCreate, (abi::Stream * stream, unsigned flags))                       \
    X(stream_destroy, cuStreamDestroy_v2, (abi::Stream stream))                                    \
    X(stream_synchronize, cuStreamSynchronize, (abi::Stream stream))                               \
    X(mem_info, cuMemGetInfo_v2, (std::size_t * available, std::size_t * total))                   \
    X(granularity, cuMemGetAllocationGranularity,                                                  \
      (std::size_t * bytes, const abi::MemAllocationProp *prop, int option))                       \
    X(mem_create, cuMemCreate,                                                                     \
      (abi::Handle * handle, std::size_t size, const abi::MemAllocationProp *prop,                 \
       unsigned long long flags))                                                                  \
    X(mem_release, cuMemRelease, (abi::Handle handle))                                             \
    X(mem_reserve, cuMemAddressReserve,                                                            \
      (abi::DevicePtr * address, std::size_t size, std::size_t alignment, abi::DevicePtr hint,     \
       unsigned long long flags))                                                                  \
    X(mem_unreserve, cuMemAddressFree, (abi::DevicePtr address, std::size_t size))                 \
    X(mem_map, cuMemMap,                                                                           \
      (abi::DevicePtr address, std::size_t size, std::size_t offset, abi::Handle handle,           \
       unsigned long long flags))                                                                  \
    X(mem_unmap, cuMemUnmap, (abi::DevicePtr address, std::size_t size))                           \
    X(mem_set_access, cuMemSetAccess,                                                              \
      (abi::DevicePtr address, std::size_t size, const abi::MemAccessDesc *descriptions,           \
       std::size_t count))                                                                         \
    X(mem_get_access, cuMemGetAccess,                                                              \
      (unsigned long long *flags, const abi::MemLocation *location, abi::DevicePtr address))       \
    X(mem_export, cuMemExportToShareableHandle,                                                    \
      (void *shareable, abi::Handle handle, int type, unsigned long long flags))                   \
    X(mem_import, cuMemImportFromShareableHandle,                                                  \
      (abi::Handle * handle, void *shareable, int type))                                           \
    X(mem_retain, cuMemRetainAllocationHandle, (abi::Handle * handle, void *address))              \
    X(memcpy_htod, cuMemcpyHtoD_v2, (abi::DevicePtr to, const void *from, std::size_t bytes))      \
    X(memcpy_dtoh, cuMemcpyDtoH_v2, (void *to, abi::DevicePtr from, std::size_t bytes))            \
    X(memcpy_dtod, cuMemcpyDtoD_v2, (abi::DevicePtr to, abi::DevicePtr from, std::size_t bytes))   \
    X(memcpy_htod_async, cuMemcpyHtoDAsync_v2,                                                     \
      (abi::DevicePtr to, const void *from, std::size_t bytes, abi::Stream stream))                \
    X(memcpy_dtod_async, cuMemcpyDtoDAsync_v2,                                                     \
      (abi::DevicePtr to, abi::DevicePtr from, std::size_t bytes, abi::Stream stream))             \
    X(memset_d8, cuMemsetD8_v2, (abi::DevicePtr to, unsigned char value, std::size_t bytes))       \
    X(memset_d8_async, cuMemsetD8Async,                                                            \
      (abi::DevicePtr to, unsigned char value, std::size_t bytes, abi::Stream stream))             \
    X(module_load, cuModuleLoadData, (abi::Module * module, const void *image))                    \
    X(module_unload, cuModuleUnload, (abi::Module module))                                         \
    X(module_function, cuModuleGetFunction,                                                        \
      (abi::Function * function, abi::Module module, const char *name))                            \
    X(launch, cuLaunchKernel,                                                                      \
      (abi::Function function, unsigned grid_x, unsigned grid_y, unsigned grid_z,                  \
       unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared_bytes,                \
       abi::Stream stream, void **parameters, void **extra))

// Newer drivers have these; what needs them asks whether they are there.
#define UPM_CUDA_OPTIONAL_CALLS(X)                                                                 \
    X(function_name, cuFuncGetName, (const char **name, abi::Function function))                   \
    X(function_param, cuFuncGetParamInfo,                                                          \
      (abi::Function function, std::size_t index, std::size_t * offset, std::size_t * size))       \
    X(kernel_function, cuKernelGetFunction, (abi::Function * function, abi::Kernel kernel))        \
    X(stream_query, cuStreamQuery, (abi::Stream stream))                                           \
    X(event_create, cuEventCreate, (abi::Event * event, unsigned flags))                           \
    X(event_record, cuEventRecord, (abi::Event event, abi::Stream stream))                         \
    X(event_synchronize, cuEventSynchronize, (abi::Event event))                                   \
    X(event_elapsed, cuEventElapsedTime, (float *milliseconds, abi::Event start, abi::Event end))  \
    X(event_destroy, cuEventDestroy_v2, (abi::Event event))

namespace upm::cuda {

struct DriverApi {
// NOLINTNEXTLINE(bugprone-macro-parentheses): a declaration
#define UPM_CUDA_MEMBER(member, symbol, parameters) abi::Status(*member) parameters = nullptr;
    UPM_CUDA_DRIVER_CALLS(UPM_CUDA_MEMBER)
    UPM_CUDA_OPTIONAL_CALLS(UPM_CUDA_MEMBER)
#undef UPM_CUDA_MEMBER
    // Only the fake has it: host code in the place of the kernels' machine code.
    const void *fake_image = nullptr;

    [[nodiscard]] bool fake() const noexcept {
        return fake_image != nullptr;
    }
};

// Fills the table from the library `path` ("": UPM_CUDA_DRIVER, else libcuda.so.1)
// and calls cuInit. The library stays loaded for good: a driver cannot be unloaded
// safely. Errors: ENOENT (no such library), ENOSYS (it lacks a call), and what
// error_of() makes of the driver's answer; the text is in last_error().
Result<DriverApi> load_driver(const char *path) noexcept;

// The errno for a driver's answer, 0 for success.
int error_of(abi::Status status) noexcept;

// "CUDA_ERROR_OUT_OF_MEMORY (2)".
std::string status_text(const DriverApi &api, abi::Status status);

// Remembers what went wrong for last_error() of this thread, and returns `error`.
[[gnu::format(printf, 2, 3)]] int fail(int error, const char *format, ...) noexcept;

// True while this thread works for the library itself: the hook then stays out.
UPM_API bool &inside_library() noexcept;

class InsideLibrary {
  public:
    InsideLibrary() noexcept : before_(inside_library()) { inside_library() = true; }
    InsideLibrary(const InsideLibrary &) = delete;
    InsideLibrary &operator=(const InsideLibrary &) = delete;
    ~InsideLibrary() { inside_library() = before_; }

  private:
    bool before_;
};

} // namespace upm::cuda

#endif // UPM_CUDA_DRIVER_DRIVER_HPP
