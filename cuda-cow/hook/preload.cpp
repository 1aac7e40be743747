// SPDX-License-Identifier: MIT
//
// libupm-cuda-preload.so: comes between a program and the driver, whichever way the
// program finds it: by linking, by dlsym, or by cuGetProcAddress (as the CUDA runtime
// does). One list says what is hooked. Not hooked: copies of two and three
// dimensions, arrays, graphs; for them there is read-only protection.
#include "cuda-cow/hook/guard.hpp"

#include <atomic>
#include <cstdint>
#include <cstring>
#include <dlfcn.h>
#include <string>

namespace {

using namespace upm::cuda;
using abi::DevicePtr;
using abi::Status;
using abi::Stream;
using hook::Guard;

using Lookup = void *(*)(void *, const char *);

Lookup real_dlsym() {
    static const auto found = [] {
        void *at = ::dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.2.5");
        if (at == nullptr)
            at = ::dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.34");
        if (at == nullptr)
            at = ::dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.17");
        return reinterpret_cast<Lookup>(at);
    }();
    return found;
}

// The driver's function of a name: what the program was given first, else the next
// in the order of libraries, else libcuda.so.1.
void *find_real(const char *name) {
    if (void *const next = real_dlsym()(RTLD_NEXT, name); next != nullptr)
        return next;
    void *const driver = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    return driver == nullptr ? nullptr : real_dlsym()(driver, name);
}

hook::Inspector inspector() {
    static const hook::Inspector found = [] {
        hook::Inspector made;
        made.name = reinterpret_cast<decltype(made.name)>(find_real("cuFuncGetName"));
        made.param = reinterpret_cast<decltype(made.param)>(find_real("cuFuncGetParamInfo"));
        return made;
    }();
    return found;
}

} // namespace

// X(name, (parameters), (arguments), guard, synchronizes)
#define UPM_COPIES(X, suffix)                                                                      \
    X(cuMemcpyHtoD_v2##suffix, (DevicePtr to, const void *from, std::size_t n), (to, from, n), to, \
      n)                                                                                           \
    X(cuMemcpyDtoD_v2##suffix, (DevicePtr to, DevicePtr from, std::size_t n), (to, from, n), to,   \
      n)                                                                                           \
    X(cuMemcpy##suffix, (DevicePtr to, DevicePtr from, std::size_t n), (to, from, n), to, n)       \
    X(cuMemsetD8_v2##suffix, (DevicePtr to, unsigned char v, std::size_t n), (to, v, n), to, n)    \
    X(cuMemsetD16_v2##suffix, (DevicePtr to, unsigned short v, std::size_t n), (to, v, n), to,     \
      2 * n)                                                                                       \
    X(cuMemsetD32_v2##suffix, (DevicePtr to, unsigned v, std::size_t n), (to, v, n), to, 4 * n)
#define UPM_ASYNC_COPIES(X, suffix)                                                                \
    X(cuMemcpyHtoDAsync_v2##suffix, (DevicePtr to, const void *from, std::size_t n, Stream s),     \
      (to, from, n, s), to, n)                                                                     \
    X(cuMemcpyDtoDAsync_v2##suffix, (DevicePtr to, DevicePtr from, std::size_t n, Stream s),       \
      (to, from, n, s), to, n)                                                                     \
    X(cuMemcpyAsync##suffix, (DevicePtr to, DevicePtr from, std::size_t n, Stream s),              \
      (to, from, n, s), to, n)                                                                     \
    X(cuMemsetD8Async##suffix, (DevicePtr to, unsigned char v, std::size_t n, Stream s),           \
      (to, v, n, s), to, n)                                                                        \
    X(cuMemsetD16Async##suffix, (DevicePtr to, unsigned short v, std::size_t n, Stream s),         \
      (to, v, n, s), to, 2 * n)                                                                    \
    X(cuMemsetD32Async##suffix, (DevicePtr to, unsigned v, std::size_t n, Stream s),               \
      (to, v, n, s), to, 4 * n)
#define UPM_LAUNCHES(X, suffix)                                                                    \
    X(cuLaunchKernel##suffix,                                                                      \
      (abi::Function f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,           \
       unsigned bz, unsigned shared, Stream s, void **parameters, void **extra),                   \
      (f, gx, gy, gz, bx, by, bz, shared, s, parameters, extra), parameters, extra)                \
    X(cuLaunchCooperativeKernel##suffix,                                                           \
      (abi::Function f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,           \
       unsigned bz, unsigned shared, Stream s, void **parameters),                                 \
      (f, gx, gy, gz, bx, by, bz, shared, s, parameters), parameters, nullptr)                     \
    X(cuLaunchKernelEx##suffix,                                                                    \
      (const abi::LaunchConfig *config, abi::Function f, void **parameters, void **extra),         \
      (config, f, parameters, extra), parameters, extra)
#define UPM_WAITS(X)                                                                               \
    X(cuCtxSynchronize, (), (), true)                                                              \
    X(cuStreamSynchronize, (Stream s), (s), false)                                                 \
    X(cuStreamSynchronize_ptsz, (Stream s), (s), false)                                            \
    X(cuStreamQuery, (Stream s), (s), false)                                                       \
    X(cuMemcpyDtoH_v2, (void *to, DevicePtr from, std::size_t n), (to, from, n), false)            \
    X(cuMemcpyDtoH_v2_ptds, (void *to, DevicePtr from, std::size_t n), (to, from, n), false)       \
    X(cuMemcpyDtoHAsync_v2, (void *to, DevicePtr from, std::size_t n, Stream s), (to, from, n, s), \
      false)
#define UPM_MODULES(X)                                                                             \
    X(cuModuleLoadData, (abi::Module * to, const void *image), (to, image))                        \
    X(cuModuleLoadDataEx,                                                                          \
      (abi::Module * to, const void *image, unsigned n, int *options, void **values),              \
      (to, image, n, options, values))                                                             \
    X(cuLibraryLoadData,                                                                           \
      (abi::Library * to, const void *image, int *jit, void **jit_values, unsigned jit_count,      \
       int *options, void **values, unsigned count),                                               \
      (to, image, jit, jit_values, jit_count, options, values, count))

// NOLINTBEGIN(readability-identifier-naming,bugprone-macro-parentheses)
// NOLINTBEGIN(readability-inconsistent-declaration-parameter-name)
// Each wrapper keeps the driver's own function in `real`.
#define UPM_REAL(name, parameters)                                                                 \
    namespace {                                                                                    \
    std::atomic<Status(*) parameters> real_##name{nullptr};                                        \
    auto get_##name() {                                                                            \
        auto found = real_##name.load(std::memory_order_relaxed);                                  \
        if (found == nullptr) {                                                                    \
            found = reinterpret_cast<Status(*) parameters>(find_real(#name));                      \
            real_##name.store(found, std::memory_order_relaxed);                                   \
        }                                                                                          \
        return found;                                                                              \
    }                                                                                              \
    }
#define UPM_DEFINE_COPY(name, parameters, arguments, to, bytes)                                    \
    UPM_REAL(name, parameters)                                                                     \
    extern "C" [[gnu::visibility("default")]] Status name parameters {                             \
        const Guard guard(to, bytes);                                                              \
        if (guard.status() != abi::kSuccess)                                                       \
            return guard.status();                                                                 \
        return hook::watch(get_##name() arguments, false);                                         \
    }
#define UPM_DEFINE_LAUNCH(name, parameters, arguments, values, packed)                             \
    UPM_REAL(name, parameters)                                                                     \
    extern "C" [[gnu::visibility("default")]] Status name parameters {                             \
        const Guard guard(inspector(), f, values, packed);                                         \
        if (guard.status() != abi::kSuccess)                                                       \
            return guard.status();                                                                 \
        return hook::watch(get_##name() arguments, false);                                         \
    }
#define UPM_DEFINE_WAIT(name, parameters, arguments, all)                                          \
    UPM_REAL(name, parameters)                                                                     \
    extern "C" [[gnu::visibility("default")]] Status name parameters {                             \
        return hook::watch(get_##name() arguments, all);                                           \
    }
#define UPM_DEFINE_MODULE(name, parameters, arguments)                                             \
    UPM_REAL(name, parameters)                                                                     \
    extern "C" [[gnu::visibility("default")]] Status name parameters {                             \
        hook::note_image(image);                                                                   \
        return get_##name() arguments;                                                             \
    }

UPM_COPIES(UPM_DEFINE_COPY, )
UPM_COPIES(UPM_DEFINE_COPY, _ptds)
UPM_ASYNC_COPIES(UPM_DEFINE_COPY, )
UPM_ASYNC_COPIES(UPM_DEFINE_COPY, _ptsz)
UPM_LAUNCHES(UPM_DEFINE_LAUNCH, )
UPM_LAUNCHES(UPM_DEFINE_LAUNCH, _ptsz)
UPM_WAITS(UPM_DEFINE_WAIT)
UPM_MODULES(UPM_DEFINE_MODULE)

UPM_REAL(cuModuleUnload, (abi::Module module))
extern "C" [[gnu::visibility("default")]] Status cuModuleUnload(abi::Module module) {
    hook::forget_functions();
    return get_cuModuleUnload()(module);
}

namespace {

// Swaps what the program was about to get for the wrapper, and keeps the real one;
// nullptr if it is not hooked, or the wrapper already.
void *wrap(const char *name, void *found) {
#define UPM_WRAP(symbol, parameters, ...)                                                          \
    if (std::strcmp(name, #symbol) == 0 && found != reinterpret_cast<void *>(&symbol)) {           \
        real_##symbol.store(reinterpret_cast<Status(*) parameters>(found));                        \
        return reinterpret_cast<void *>(&symbol);                                                  \
    }
    UPM_COPIES(UPM_WRAP, )
    UPM_COPIES(UPM_WRAP, _ptds)
    UPM_ASYNC_COPIES(UPM_WRAP, )
    UPM_ASYNC_COPIES(UPM_WRAP, _ptsz)
    UPM_LAUNCHES(UPM_WRAP, )
    UPM_LAUNCHES(UPM_WRAP, _ptsz)
    UPM_WAITS(UPM_WRAP)
    UPM_MODULES(UPM_WRAP)
    UPM_WRAP(cuModuleUnload, (abi::Module))
#undef UPM_WRAP
    return nullptr;
}

// cuGetProcAddress is asked for names without version and stream suffixes.
void *wrap_unversioned(const char *name, void *found, std::uint64_t flags) {
    constexpr std::uint64_t kPerThreadStream = 2;
    const std::string plain = name;
    for (const char *version : {"_v2", ""}) {
        if ((flags & kPerThreadStream) != 0)
            for (const char *suffix : {"_ptsz", "_ptds"})
                if (void *const own = wrap((plain + version + suffix).c_str(), found))
                    return own;
        if (void *const own = wrap((plain + version).c_str(), found))
            return own;
    }
    return found;
}

} // namespace

UPM_REAL(cuGetProcAddress_v2,
         (const char *name, void **found, int version, std::uint64_t flags, int *status))
extern "C" [[gnu::visibility("default")]] Status
cuGetProcAddress_v2(const char *name, void **found, int version, std::uint64_t flags, int *status) {
    const Status answer = get_cuGetProcAddress_v2()(name, found, version, flags, status);
    if (answer != abi::kSuccess || found == nullptr || *found == nullptr || inside_library())
        return answer;
    if (std::strcmp(name, "cuGetProcAddress") == 0 && version >= 12000) {
        real_cuGetProcAddress_v2.store(
            reinterpret_cast<decltype(get_cuGetProcAddress_v2())>(*found));
        *found = reinterpret_cast<void *>(&cuGetProcAddress_v2);
    } else {
        *found = wrap_unversioned(name, *found, flags);
    }
    return answer;
}

UPM_REAL(cuGetProcAddress, (const char *name, void **found, int version, std::uint64_t flags))
extern "C" [[gnu::visibility("default")]] Status
cuGetProcAddress(const char *name, void **found, int version, std::uint64_t flags) {
    const Status answer = get_cuGetProcAddress()(name, found, version, flags);
    if (answer == abi::kSuccess && found != nullptr && *found != nullptr && !inside_library())
        *found = wrap_unversioned(name, *found, flags);
    return answer;
}

// Calls with other names go on as a jump, so that glibc sees the program as caller
// of dlsym(RTLD_NEXT, …).
extern "C" [[gnu::visibility("default")]] void *dlsym(void *library, const char *name) noexcept {
    if (std::strncmp(name, "cu", 2) != 0)
        return real_dlsym()(library, name);
    void *const found = real_dlsym()(library, name);
    if (found == nullptr || inside_library())
        return found;
    if (std::strcmp(name, "cuGetProcAddress_v2") == 0) {
        real_cuGetProcAddress_v2.store(
            reinterpret_cast<decltype(get_cuGetProcAddress_v2())>(found));
        return reinterpret_cast<void *>(&cuGetProcAddress_v2);
    }
    if (std::strcmp(name, "cuGetProcAddress") == 0) {
        real_cuGetProcAddress.store(reinterpret_cast<decltype(get_cuGetProcAddress())>(found));
        return reinterpret_cast<void *>(&cuGetProcAddress);
    }
    void *const own = wrap(name, found);
    return own != nullptr ? own : found;
}
// NOLINTEND(readability-inconsistent-declaration-parameter-name)
// NOLINTEND(readability-identifier-naming,bugprone-macro-parentheses)
