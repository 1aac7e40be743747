// SPDX-License-Identifier: MIT
//
// libupm-cuda-preload.so: comes between a program and the driver, whichever way the
// program finds it: by linking, by dlsym, or by cuGetProcAddress (as the CUDA runtime
// does). calls.hpp lists what is hooked. Not hooked is dlvsym: the driver's symbols
// have no versions.
//
// Other libraries may do the same. A call that arrives while this thread is inside a
// wrapper already, since the next in line came back to us, goes straight to the driver:
// so no chain of hooks can become a circle. dlsym(RTLD_NEXT, …) is never answered here:
// what comes next depends on who asks.
#include "cuda-cow/hook/calls.hpp"

#include <array>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <dlfcn.h>
#include <string>
#include <string_view>

namespace {

using namespace upm::cuda;
using abi::DevicePtr;
using abi::Status;
using abi::Stream;
using namespace hook; // NOLINT(google-build-using-namespace): for the list of calls

auto *const kPerThread = reinterpret_cast<Stream>(abi::kStreamPerThread);

using Lookup = void *(*)(void *, const char *) noexcept; // or no call of it is a jump

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

bool is_ours(const void *function) {
    static const void *const base = [] {
        Dl_info ours = {};
        (void)::dladdr(reinterpret_cast<void *>(&is_ours), &ours);
        return ours.dli_fbase;
    }();
    Dl_info theirs = {};
    return ::dladdr(function, &theirs) != 0 && theirs.dli_fbase == base;
}

// The driver's own function of this name, past all hooks.
void *find_in_driver(const char *name) {
    void *const driver = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    return driver == nullptr ? nullptr : real_dlsym()(driver, name);
}

// What a program that is linked to the driver would get if this library were not there.
void *find_next(const char *name) {
    void *const next = real_dlsym()(RTLD_NEXT, name);
    return next != nullptr ? next : find_in_driver(name);
}

template <class Call>
void find_in_driver(const char *name, Call &call) {
    call = reinterpret_cast<Call>(find_in_driver(name));
}

// What a wrapper goes on to: what the program was given for it first, else the next in
// line; or the driver, if this thread is inside a wrapper already.
struct Real {
    std::atomic<void *> next{nullptr};
    std::atomic<void *> driver{nullptr};

    void *get(const char *name, bool nested) {
        std::atomic<void *> &slot = nested ? driver : next;
        void *found = slot.load(std::memory_order_relaxed);
        if (found != nullptr)
            return found;
        found = nested ? find_in_driver(name) : find_next(name);
        if (found == nullptr || is_ours(found))
            found = next.load();
        slot = found;
        return found;
    }
    void offer(void *found) {
        void *none = nullptr;
        if (!is_ours(found))
            (void)next.compare_exchange_strong(none, found);
    }
};

[[gnu::tls_model("initial-exec")]] thread_local unsigned depth = 0;

class Inside {
  public:
    Inside() noexcept { ++depth; }
    Inside(const Inside &) = delete;
    Inside &operator=(const Inside &) = delete;
    ~Inside() { --depth; }
    [[nodiscard]] static bool nested() noexcept { return depth > 1; }
};

const hook::GraphInspector &graph_inspector() {
    static const hook::GraphInspector found = [] {
        hook::GraphInspector made;
        find_in_driver("cuFuncGetName", made.functions.name);
        find_in_driver("cuFuncGetParamInfo", made.functions.param);
        find_in_driver("cuKernelGetFunction", made.functions.function);
        find_in_driver("cuStreamIsCapturing", made.functions.capturing);
        find_in_driver("cuCtxGetDevice", made.functions.device);
        find_in_driver("cuGraphGetNodes", made.nodes);
        find_in_driver("cuGraphNodeGetType", made.type);
        find_in_driver("cuGraphKernelNodeGetParams_v2", made.kernel);
        find_in_driver("cuGraphMemcpyNodeGetParams", made.copy);
        find_in_driver("cuGraphMemsetNodeGetParams", made.set);
        find_in_driver("cuGraphChildGraphNodeGetGraph", made.child);
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
// The exported name is an alias: the address of a name that others export as well would
// be theirs, if they come first.
#define UPM_EXPORT(name, parameters)                                                               \
    extern "C" [[gnu::visibility("default"), gnu::alias("upm_hook_" #name)]] Status name parameters;
#define UPM_WRAPPER(name, parameters, ...)                                                         \
    namespace {                                                                                    \
    Real real_##name;                                                                              \
    }                                                                                              \
    UPM_EXPORT(name, parameters)                                                                   \
    extern "C" Status upm_hook_##name parameters {                                                 \
        const Inside inside;                                                                       \
        auto *const real =                                                                         \
            reinterpret_cast<Status(*) parameters>(real_##name.get(#name, Inside::nested()));      \
        if (real == nullptr)                                                                       \
            return abi::kNotFound;                                                                 \
        __VA_ARGS__                                                                                \
    }
#define UPM_DEFINE_COPY(name, parameters, arguments, uses, stream)                                 \
    UPM_WRAPPER(name, parameters, if (Inside::nested()) return real arguments;                     \
                const Guard guard(inspector(), uses, stream);                                      \
                if (guard.status() != abi::kSuccess) return guard.status();                        \
                return hook::watch(real arguments, false);)
#define UPM_DEFINE_LEGACY_COPY(name, parameters, arguments, uses)                                  \
    UPM_DEFINE_COPY(name, parameters, arguments, uses, nullptr)
#define UPM_DEFINE_THREAD_COPY(name, parameters, arguments, uses)                                  \
    UPM_DEFINE_COPY(name, parameters, arguments, uses, kPerThread)
#define UPM_DEFINE_LAUNCH(name, parameters, arguments, values, packed, stream)                     \
    UPM_WRAPPER(name, parameters, if (Inside::nested()) return real arguments;                     \
                const Guard guard(inspector(), f, values, packed, stream);                         \
                if (guard.status() != abi::kSuccess) return guard.status();                        \
                return hook::watch(real arguments, false);)
#define UPM_DEFINE_WAIT(name, parameters, arguments, all)                                          \
    UPM_WRAPPER(name, parameters, return hook::watch(real arguments, all);)
#define UPM_DEFINE_NOTE(name, parameters, arguments, before, after)                                \
    UPM_WRAPPER(name, parameters, before; const Status status = real arguments;                    \
                if (status == abi::kSuccess) after; return status;)
#define UPM_DEFINE_GRAPH_NOTE(name, parameters, arguments, uses, after)                            \
    UPM_WRAPPER(name, parameters, const Guard guard(inspector(), uses, nullptr);                   \
                if (guard.status() != abi::kSuccess) return guard.status();                        \
                const Status status = real arguments; if (status == abi::kSuccess) after;          \
                return status;)

UPM_COPIES(UPM_DEFINE_LEGACY_COPY, )
UPM_COPIES(UPM_DEFINE_THREAD_COPY, _ptds)
UPM_ASYNC_COPIES(UPM_DEFINE_COPY, )
UPM_ASYNC_COPIES(UPM_DEFINE_COPY, _ptsz)
UPM_LAUNCHES(UPM_DEFINE_LAUNCH, )
UPM_LAUNCHES(UPM_DEFINE_LAUNCH, _ptsz)
UPM_OLD_LAUNCHES(UPM_DEFINE_LAUNCH)
UPM_MANY_LAUNCHES(UPM_DEFINE_COPY)
UPM_GRAPH_LAUNCHES(UPM_DEFINE_COPY, )
UPM_GRAPH_LAUNCHES(UPM_DEFINE_COPY, _ptsz)
UPM_WAITS(UPM_DEFINE_WAIT)
UPM_NOTES(UPM_DEFINE_NOTE)
UPM_GRAPH_NOTES(UPM_DEFINE_GRAPH_NOTE)

namespace {

struct Hooked {
    const char *name;
    void *wrapper;
    Real *real;
};

#define UPM_ROW(symbol, ...)                                                                       \
    {#symbol, reinterpret_cast<void *>(&upm_hook_##symbol), &real_##symbol},
const Hooked kHooked[] = {UPM_COPIES(UPM_ROW, ) UPM_COPIES(UPM_ROW, _ptds)                 //
                          UPM_ASYNC_COPIES(UPM_ROW, ) UPM_ASYNC_COPIES(UPM_ROW, _ptsz)     //
                          UPM_LAUNCHES(UPM_ROW, ) UPM_LAUNCHES(UPM_ROW, _ptsz)             //
                          UPM_OLD_LAUNCHES(UPM_ROW) UPM_MANY_LAUNCHES(UPM_ROW)             //
                          UPM_GRAPH_LAUNCHES(UPM_ROW, ) UPM_GRAPH_LAUNCHES(UPM_ROW, _ptsz) //
                          UPM_WAITS(UPM_ROW) UPM_NOTES(UPM_ROW) UPM_GRAPH_NOTES(UPM_ROW)};
#undef UPM_ROW

const Hooked *find_hooked(std::string_view name) {
    for (const Hooked &hooked : kHooked)
        if (name == hooked.name)
            return &hooked;
    return nullptr;
}

// The wrapper in place of what the program was about to get, which is kept.
void *wrap(const Hooked &hooked, void *found) {
    hooked.real->offer(found);
    return hooked.wrapper;
}

// cuGetProcAddress is asked for names without version and stream suffixes: what they mean
// depends on the CUDA version that is asked for. From the first version on a name means
// the symbol beside it; names that are not here mean NAME_v2 from 3020 on where that is
// hooked, and themselves where it is not. "" is left alone: it has other parameters.
struct Meaning {
    const char *name;
    int since;
    const char *symbol;
};
constexpr Meaning kMeanings[] = {
    {"cuCtxSynchronize", 13000, ""},
    {"cuCtxSynchronize", 0, "cuCtxSynchronize"},
    {"cuGraphInstantiate", 12000, "cuGraphInstantiateWithFlags"},
    {"cuGraphInstantiate", 11000, "cuGraphInstantiate_v2"},
    {"cuGraphInstantiate", 0, ""},
    {"cuGraphExecUpdate", 12000, "cuGraphExecUpdate_v2"},
    {"cuGraphExecUpdate", 0, ""},
    {"cuGraphExecKernelNodeSetParams", 12000, "cuGraphExecKernelNodeSetParams_v2"},
    {"cuGraphExecKernelNodeSetParams", 0, ""},
    {"cuMemcpyBatchAsync", 13000, "cuMemcpyBatchAsync_v2"},
    {"cuMemcpyBatchAsync", 0, "cuMemcpyBatchAsync"},
    {"cuStreamWriteValue32", 11070, "cuStreamWriteValue32_v2"},
    {"cuStreamWriteValue32", 0, "cuStreamWriteValue32"},
    {"cuStreamWriteValue64", 11070, "cuStreamWriteValue64_v2"},
    {"cuStreamWriteValue64", 0, "cuStreamWriteValue64"},
};
constexpr int kNewestKnown = 13000; // tests/cuda-cow/runtime_test.py: by cudaTypedefs.h

std::string symbol_of(std::string_view name, int version) {
    for (const Meaning &meaning : kMeanings)
        if (name == meaning.name && version >= meaning.since)
            return meaning.symbol;
    std::string second = std::string(name) + "_v2";
    if (find_hooked(second) != nullptr)
        return version >= 3020 ? second : "";
    return std::string(name);
}

void *wrap_unversioned(const char *name, void *found, int version, std::uint64_t flags) {
    if (is_ours(found))
        return found;
    const std::string symbol = symbol_of(name, version);
    constexpr std::uint64_t kPerThreadStream = 2;
    for (const char *suffix : {"_ptsz", "_ptds", ""}) {
        if (*suffix != '\0' && (flags & kPerThreadStream) == 0)
            continue;
        const Hooked *const hooked = find_hooked(symbol + suffix);
        if (hooked == nullptr)
            continue;
        // A version that came later may have other parameters: only if it is the same
        // function all the same.
        if (version > kNewestKnown && found != find_in_driver(hooked->name))
            return found;
        return wrap(*hooked, found);
    }
    return found;
}

Real real_cuGetProcAddress;
Real real_cuGetProcAddress_v2;

// What the driver answered, or the wrapper in its place.
void swap_answer(const char *name, void **found, int version, std::uint64_t flags);

} // namespace

UPM_EXPORT(cuGetProcAddress_v2,
           (const char *name, void **found, int version, std::uint64_t flags, int *status))
extern "C" Status upm_hook_cuGetProcAddress_v2(const char *name, void **found, int version,
                                               std::uint64_t flags, int *status) {
    const Inside inside;
    auto *const real = reinterpret_cast<decltype(&cuGetProcAddress_v2)>(
        real_cuGetProcAddress_v2.get("cuGetProcAddress_v2", Inside::nested()));
    if (real == nullptr)
        return abi::kNotFound;
    const Status answer = real(name, found, version, flags, status);
    if (answer == abi::kSuccess)
        swap_answer(name, found, version, flags);
    return answer;
}

UPM_EXPORT(cuGetProcAddress, (const char *name, void **found, int version, std::uint64_t flags))
extern "C" Status upm_hook_cuGetProcAddress(const char *name, void **found, int version,
                                            std::uint64_t flags) {
    const Inside inside;
    auto *const real = reinterpret_cast<decltype(&cuGetProcAddress)>(
        real_cuGetProcAddress.get("cuGetProcAddress", Inside::nested()));
    if (real == nullptr)
        return abi::kNotFound;
    const Status answer = real(name, found, version, flags);
    if (answer == abi::kSuccess)
        swap_answer(name, found, version, flags);
    return answer;
}

namespace {

void swap_answer(const char *name, void **found, int version, std::uint64_t flags) {
    if (found == nullptr || *found == nullptr || inside_library() || is_ours(*found))
        return;
    if (std::strcmp(name, "cuGetProcAddress") != 0) {
        *found = wrap_unversioned(name, *found, version, flags);
    } else if (version >= 12000) {
        real_cuGetProcAddress_v2.offer(*found);
        *found = reinterpret_cast<void *>(&upm_hook_cuGetProcAddress_v2);
    } else {
        real_cuGetProcAddress.offer(*found);
        *found = reinterpret_cast<void *>(&upm_hook_cuGetProcAddress);
    }
}

// The wrapper for a symbol by its own name; nullptr if it has none.
void *wrapper_of(const char *name, void *found) {
    if (const Hooked *const hooked = find_hooked(name); hooked != nullptr)
        return wrap(*hooked, found);
    if (std::strcmp(name, "cuGetProcAddress_v2") == 0) {
        real_cuGetProcAddress_v2.offer(found);
        return reinterpret_cast<void *>(&upm_hook_cuGetProcAddress_v2);
    }
    if (std::strcmp(name, "cuGetProcAddress") == 0) {
        real_cuGetProcAddress.offer(found);
        return reinterpret_cast<void *>(&upm_hook_cuGetProcAddress);
    }
    return nullptr;
}

bool is_ours_to_answer(void *library, const char *name) {
    return library != RTLD_NEXT && std::strncmp(name, "cu", 2) == 0 && !inside_library() &&
           (find_hooked(name) != nullptr || std::strncmp(name, "cuGetProcAddress", 16) == 0);
}

} // namespace

// What is not hooked, and what is asked of the next library, goes on as a jump, so that
// glibc sees the program as the caller.
extern "C" [[gnu::visibility("default")]] void *dlsym(void *library, const char *name) noexcept {
    if (!is_ours_to_answer(library, name))
        return real_dlsym()(library, name);
    void *const found = real_dlsym()(library, name);
    if (found == nullptr || is_ours(found))
        return found;
    void *const own = wrapper_of(name, found);
    return own != nullptr ? own : found;
}
// NOLINTEND(readability-inconsistent-declaration-parameter-name)
// NOLINTEND(readability-identifier-naming,bugprone-macro-parentheses)
