// SPDX-License-Identifier: MIT
//
// Another preload that wraps calls, as torch_memory_saver and profilers do: cudaMalloc
// and cuMemsetD8 by dlsym(RTLD_NEXT, …), cuMemcpyDtoD by the driver's handle. Each counts
// how deep it is called: a hook that answers for another sends it in a circle.
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>

namespace {

template <class Function>
Function next(const char *name) {
    return reinterpret_cast<Function>(::dlsym(RTLD_NEXT, name));
}

class Depth {
  public:
    explicit Depth(const char *name) {
        if (++depth_ > 3) {
            (void)std::fprintf(stderr, "other_hook: %s calls itself\n", name);
            std::_Exit(1);
        }
    }
    Depth(const Depth &) = delete;
    Depth &operator=(const Depth &) = delete;
    ~Depth() { --depth_; }

  private:
    static inline thread_local int depth_ = 0;
};

} // namespace

// NOLINTBEGIN(readability-identifier-naming): the names that are wrapped
#pragma GCC visibility push(default)
extern "C" {

int cudaMalloc(void **memory, unsigned long bytes) {
    const Depth depth("cudaMalloc");
    return next<int (*)(void **, unsigned long)>("cudaMalloc")(memory, bytes);
}

int cuMemsetD8_v2(unsigned long long to, unsigned char value, std::size_t bytes) {
    const Depth depth("cuMemsetD8_v2");
    return next<decltype(&cuMemsetD8_v2)>("cuMemsetD8_v2")(to, value, bytes);
}

int cuMemcpyDtoD_v2(unsigned long long to, unsigned long long from, std::size_t bytes) {
    const Depth depth("cuMemcpyDtoD_v2");
    void *const driver = ::dlopen("libcuda.so.1", RTLD_NOW);
    return reinterpret_cast<decltype(&cuMemcpyDtoD_v2)>(::dlsym(driver, "cuMemcpyDtoD_v2"))(
        to, from, bytes);
}
}
#pragma GCC visibility pop
// NOLINTEND(readability-identifier-naming)
