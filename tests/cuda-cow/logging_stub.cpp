// SPDX-License-Identifier: MIT
//
// A libcuda.so.1 that says who asks it for what, for NVIDIA's real runtime: each name is
// there, and is a function that does nothing. The runtime comes as far as the driver's
// export tables, which no stub has; by then it has asked for all it uses.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <dlfcn.h>

namespace {

const char *caller(void *address) {
    Dl_info info = {};
    const char *const name = ::dladdr(address, &info) != 0 ? info.dli_fname : "?";
    const char *const slash = std::strrchr(name, '/');
    return slash != nullptr ? slash + 1 : name;
}

int nothing() {
    return 0;
}

} // namespace

// NOLINTBEGIN(readability-identifier-naming): the driver's names
#pragma GCC visibility push(default)
extern "C" {

int cuInit(unsigned) {
    return 0;
}

int cuDriverGetVersion(int *version) {
    *version = 13000;
    return 0;
}

int cuGetExportTable(const void **table, const void *) {
    *table = nullptr;
    return 500;
}

int cuGetProcAddress_v2(const char *name, void **found, int version, std::uint64_t flags,
                        int *status) {
    (void)std::fprintf(stderr, "ask '%s' %d %llu %s\n", name, version,
                       static_cast<unsigned long long>(flags), caller(__builtin_return_address(0)));
    *found = reinterpret_cast<void *>(&nothing);
    if (std::strcmp(name, "cuGetProcAddress") == 0)
        *found = reinterpret_cast<void *>(&cuGetProcAddress_v2);
    else if (std::strcmp(name, "cuInit") == 0)
        *found = reinterpret_cast<void *>(&cuInit);
    else if (std::strcmp(name, "cuDriverGetVersion") == 0)
        *found = reinterpret_cast<void *>(&cuDriverGetVersion);
    else if (std::strcmp(name, "cuGetExportTable") == 0)
        *found = reinterpret_cast<void *>(&cuGetExportTable);
    if (status != nullptr)
        *status = 0;
    return 0;
}
}
#pragma GCC visibility pop
// NOLINTEND(readability-identifier-naming)
