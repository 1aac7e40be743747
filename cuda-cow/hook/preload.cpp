// SPDX-License-Identifier: MIT
//
// libupm-cuda-preload.so: comes between a program and the driver, whichever way the
// program finds it: by linking, by dlsym, or by cuGetProcAddress (as the CUDA runtime
// does). calls.hpp lists what is hooked. Not hooked is dlvsym: the driver's symbols
// have no versions.
#include "cuda-cow/hook/calls.hpp"

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
using namespace hook; // NOLINT(google-build-using-namespace): for the list of calls

auto *const kPerThread = reinterpret_cast<Stream>(abi::kStreamPerThread);

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

template <class Call>
void find_real(const char *name, Call &call) {
    call = reinterpret_cast<Call>(find_real(name));
}

const hook::GraphInspector &graph_inspector() {
    static const hook::GraphInspector found = [] {
        hook::GraphInspector made;
        find_real("cuFuncGetName", made.functions.name);
        find_real("cuFuncGetParamInfo", made.functions.param);
        find_real("cuKernelGetFunction", made.functions.function);
        find_real("cuStreamIsCapturing", made.functions.capturing);
        find_real("cuGraphGetNodes", made.nodes);
        find_real("cuGraphNodeGetType", made.type);
        find_real("cuGraphKernelNodeGetParams_v2", made.kernel);
        find_real("cuGraphMemcpyNodeGetParams", made.copy);
        find_real("cuGraphMemsetNodeGetParams", made.set);
        find_real("cuGraphChildGraphNodeGetGraph", made.child);
        return made;
    }();
    return found;
}

const hook::Inspector &inspector() {
    return graph_inspector().functions;
}

} // namespace

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
#define UPM_DEFINE_COPY(name, parameters, arguments, uses, stream)                                 \
    UPM_REAL(name, parameters)                                                                     \
    extern "C" [[gnu::visibility("default")]] Status name parameters {                             \
        const Guard guard(inspector(), uses, stream);                                              \
        if (guard.status() != abi::kSuccess)                                                       \
            return guard.status();                                                                 \
        return hook::watch(get_##name() arguments, false);                                         \
    }
#define UPM_DEFINE_LEGACY_COPY(name, parameters, arguments, uses)                                  \
    UPM_DEFINE_COPY(name, parameters, arguments, uses, nullptr)
#define UPM_DEFINE_THREAD_COPY(name, parameters, arguments, uses)                                  \
    UPM_DEFINE_COPY(name, parameters, arguments, uses, kPerThread)
#define UPM_DEFINE_LAUNCH(name, parameters, arguments, values, packed, stream)                     \
    UPM_REAL(name, parameters)                                                                     \
    extern "C" [[gnu::visibility("default")]] Status name parameters {                             \
        const Guard guard(inspector(), f, values, packed, stream);                                 \
        if (guard.status() != abi::kSuccess)                                                       \
            return guard.status();                                                                 \
        return hook::watch(get_##name() arguments, false);                                         \
    }
#define UPM_DEFINE_WAIT(name, parameters, arguments, all)                                          \
    UPM_REAL(name, parameters)                                                                     \
    extern "C" [[gnu::visibility("default")]] Status name parameters {                             \
        return hook::watch(get_##name() arguments, all);                                           \
    }
#define UPM_DEFINE_NOTE(name, parameters, arguments, before, after)                                \
    UPM_REAL(name, parameters)                                                                     \
    extern "C" [[gnu::visibility("default")]] Status name parameters {                             \
        before;                                                                                    \
        const Status status = get_##name() arguments;                                              \
        if (status == abi::kSuccess)                                                               \
            after;                                                                                 \
        return status;                                                                             \
    }

UPM_COPIES(UPM_DEFINE_LEGACY_COPY, )
UPM_COPIES(UPM_DEFINE_THREAD_COPY, _ptds)
UPM_ASYNC_COPIES(UPM_DEFINE_COPY, )
UPM_ASYNC_COPIES(UPM_DEFINE_COPY, _ptsz)
UPM_LAUNCHES(UPM_DEFINE_LAUNCH, )
UPM_LAUNCHES(UPM_DEFINE_LAUNCH, _ptsz)
UPM_WAITS(UPM_DEFINE_WAIT)
UPM_NOTES(UPM_DEFINE_NOTE)

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
    UPM_NOTES(UPM_WRAP)
#undef UPM_WRAP
    return nullptr;
}

// Names whose meaning depends on the version that is asked for; before that they are
// not wrapped, or under the old name.
struct Renamed {
    const char *name;
    int version;
    const char *since;
    const char *before;
};
constexpr Renamed kRenamed[] = {
    {"cuGraphInstantiate", 12000, "cuGraphInstantiateWithFlags", "cuGraphInstantiate_v2"},
    {"cuGraphExecUpdate", 12000, "cuGraphExecUpdate_v2", ""},
    {"cuGraphExecKernelNodeSetParams", 12000, "cuGraphExecKernelNodeSetParams_v2", ""},
    {"cuMemcpyBatchAsync", 13000, "cuMemcpyBatchAsync_v2", "cuMemcpyBatchAsync"},
};

void *wrap_in_stream(const std::string &name, void *found, std::uint64_t flags) {
    constexpr std::uint64_t kPerThreadStream = 2;
    if ((flags & kPerThreadStream) != 0)
        for (const char *suffix : {"_ptsz", "_ptds"})
            if (void *const own = wrap((name + suffix).c_str(), found))
                return own;
    return wrap(name.c_str(), found);
}

bool is_wrapper(const void *function) {
    Dl_info theirs = {};
    Dl_info ours = {};
    return ::dladdr(function, &theirs) != 0 &&
           ::dladdr(reinterpret_cast<void *>(&is_wrapper), &ours) != 0 &&
           theirs.dli_fbase == ours.dli_fbase;
}

// cuGetProcAddress is asked for names without version and stream suffixes.
void *wrap_unversioned(const char *name, void *found, int version, std::uint64_t flags) {
    if (is_wrapper(found))
        return found;
    void *own = nullptr;
    for (const Renamed &renamed : kRenamed)
        if (std::strcmp(name, renamed.name) == 0) {
            own = wrap_in_stream(version >= renamed.version ? renamed.since : renamed.before, found,
                                 flags);
            return own != nullptr ? own : found;
        }
    for (const char *suffix : {"_v2", ""})
        if (own = wrap_in_stream(std::string(name) + suffix, found, flags); own != nullptr)
            return own;
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
        *found = wrap_unversioned(name, *found, version, flags);
    }
    return answer;
}

UPM_REAL(cuGetProcAddress, (const char *name, void **found, int version, std::uint64_t flags))
extern "C" [[gnu::visibility("default")]] Status
cuGetProcAddress(const char *name, void **found, int version, std::uint64_t flags) {
    const Status answer = get_cuGetProcAddress()(name, found, version, flags);
    if (answer == abi::kSuccess && found != nullptr && *found != nullptr && !inside_library())
        *found = wrap_unversioned(name, *found, version, flags);
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
