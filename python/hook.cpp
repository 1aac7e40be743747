// SPDX-License-Identifier: MIT
//
// The way to libupm-preload.so, where it is preloaded.
#include "python/core.hpp"

#include <upm/hook.h>

#include <dlfcn.h>
#include <fstream>
#include <malloc.h>
#include <unistd.h>

namespace py = pybind11;

namespace upm::python {

namespace {

constexpr int kLargestHeapLimit = 32 << 20; // DEFAULT_MMAP_THRESHOLD_MAX

// nullptr where the hook is not in this process. Looked up once: a library that is
// preloaded is there from the start.
template <class Function>
Function *find(const char *name) noexcept {
    return reinterpret_cast<Function *>(::dlsym(RTLD_DEFAULT, name));
}

struct Hook {
    decltype(&upm_hook_mark) mark = find<decltype(upm_hook_mark)>("upm_hook_mark");
    decltype(&upm_hook_advise) advise = find<decltype(upm_hook_advise)>("upm_hook_advise");
    decltype(&upm_hook_report) report = find<decltype(upm_hook_report)>("upm_hook_report");
    decltype(&upm_hook_note) note = find<decltype(upm_hook_note)>("upm_hook_note");

    [[nodiscard]] bool present() const noexcept {
        return mark != nullptr && advise != nullptr && report != nullptr;
    }
};

const Hook &hook() noexcept {
    static const Hook found;
    return found;
}

std::uint64_t resident_bytes() {
    std::ifstream file("/proc/self/statm");
    std::uint64_t size = 0;
    std::uint64_t resident = 0;
    file >> size >> resident;
    return resident * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

Counts advise_from(std::uint64_t mark) {
    Counts counts;
    int error = 0;
    {
        const py::gil_scoped_release released;
        error = hook().advise(mark, &counts);
    }
    if (error != 0)
        raise(-error, counts);
    return counts;
}

std::uint64_t trim() {
    const py::gil_scoped_release released;
    const std::uint64_t before = resident_bytes();
    (void)::malloc_trim(0);
    const std::uint64_t after = resident_bytes();
    return before > after ? before - after : 0;
}

// Up to which size glibc's malloc takes a block from its heap. It would let that grow
// to the size of the largest block freed, 32 MiB at most, and then keep up to twice
// that much freed memory: mallopt(3). The first call ends that growing.
void set_heap_limit(int bytes) {
    constexpr int kTrimFactor = 2;
    (void)::mallopt(M_MMAP_THRESHOLD, bytes);
    (void)::mallopt(M_TRIM_THRESHOLD, kTrimFactor * kLargestHeapLimit);
}

py::object report() {
    upm_hook_stats stats{};
    if (!hook().present() || hook().report(&stats) != 0)
        return py::none();
    return py::cast(stats);
}

} // namespace

void tell_hook(std::uintptr_t address, std::size_t length) noexcept {
    if (hook().note != nullptr)
        // NOLINTNEXTLINE(performance-no-int-to-ptr): an address of this process
        (void)hook().note(reinterpret_cast<void *>(address), length);
}

void add_hook(py::module_ &module) {
    module.def(
        "hook_present", [] { return hook().present(); },
        "Whether libupm-preload.so is preloaded into this process.");
    module.def(
        "hook_mark", [] { return hook().present() ? hook().mark() : 0; },
        "Number of the next block that the hook will take on.");
    module.def("hook_advise", &advise_from, py::arg("mark"),
               "Lets the hook trim and advise its blocks from that number on.");
    module.def("hook_stats", &report, "What the hook did so far; None where it is not preloaded.");
    module.attr("LARGEST_HEAP_LIMIT") = kLargestHeapLimit;
    module.def("set_heap_limit", &set_heap_limit, py::arg("bytes"),
               "From that size on, malloc gives each block a mapping of its own.");
    module.def("trim", &trim,
               "Gives freed memory that malloc keeps back to the system. Returns bytes.");
}

} // namespace upm::python
