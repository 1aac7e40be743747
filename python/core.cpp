// SPDX-License-Identifier: MIT
//
// upm._core: calls on ranges of memory. The interpreter's lock is released while the
// library works.
#include "python/core.hpp"

#include <pybind11/stl.h>

#include <cerrno>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace py = pybind11;

namespace upm::python {

namespace {

using Range = std::pair<std::uintptr_t, std::size_t>; // address, bytes

struct Call {
    Result<Counts> (*function)(void *, std::size_t, const Options &) noexcept;
    Options options;
    std::shared_ptr<const Domain> domain; // keeps options.domain open
};

Result<Counts> call_once(const Call &work, const Range &range) {
    const py::gil_scoped_release released;
    // NOLINTNEXTLINE(performance-no-int-to-ptr): an integer is what an address is here
    auto *const address = reinterpret_cast<void *>(range.first);
    return work.function(address, range.second, work.options);
}

// Handlers of signals run, and may raise; then the call is made again (PEP 475), and
// what was done before counts as `already`.
Result<Counts> call(const Call &work, const Range &range) {
    for (;;) {
        Result<Counts> done = call_once(work, range);
        if (done.error() != EINTR)
            return done;
        if (PyErr_CheckSignals() != 0)
            throw py::error_already_set();
    }
}

Counts over(const std::vector<Range> &ranges, const Call &work) {
    Counts sum;
    for (const Range &range : ranges) {
        if (work.options.pid == 0)
            tell_hook(range.first, range.second);
        const Result<Counts> done = call(work, range);
        sum += *done;
        if (!done)
            raise(done.error(), sum);
    }
    return sum;
}

Call make_call(decltype(Call::function) function, const SharedDomain *domain, int pid) {
    if (pid < 0)
        throw py::value_error("pid must not be negative: " + std::to_string(pid));
    Call work{.function = function, .options = {}, .domain = {}};
    work.options.pid = pid;
    if (domain != nullptr) {
        work.domain = domain->open();
        work.options.domain = work.domain.get();
    }
    return work;
}

Counts advise_ranges(const std::vector<Range> &ranges, bool dry_run, bool quiescent,
                     const SharedDomain *domain, int pid) {
    Call work = make_call(&upm::advise, domain, pid);
    work.options.dry_run = dry_run;
    work.options.quiescent = quiescent;
    return over(ranges, work);
}

Counts unmerge_ranges(const std::vector<Range> &ranges, const SharedDomain *domain, int pid) {
    return over(ranges, make_call(&upm::unmerge, domain, pid));
}

// A buffer that is written to, held as long as this lives.
class WritableBuffer {
  public:
    explicit WritableBuffer(const py::object &object) {
        if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_WRITABLE | PyBUF_C_CONTIGUOUS) != 0)
            throw py::error_already_set();
    }
    WritableBuffer(const WritableBuffer &) = delete;
    WritableBuffer &operator=(const WritableBuffer &) = delete;
    ~WritableBuffer() { PyBuffer_Release(&view_); }
    [[nodiscard]] std::span<std::byte> bytes() const {
        return {static_cast<std::byte *>(view_.buf), static_cast<std::size_t>(view_.len)};
    }

  private:
    Py_buffer view_{};
};

py::tuple load_file(int fd, std::uint64_t offset, const py::object &buffer,
                    const SharedDomain *domain, bool ordinary) {
    const WritableBuffer into(buffer);
    const std::shared_ptr<const Domain> open = domain != nullptr ? domain->open() : nullptr;
    Loaded done;
    int error = 0;
    {
        const py::gil_scoped_release released;
        const auto address = reinterpret_cast<std::uintptr_t>(into.bytes().data());
        tell_hook(address, into.bytes().size());
        const Result<Loaded> result =
            upm::load(fd, offset, into.bytes(), {.domain = open.get(), .ordinary = ordinary});
        done = *result;
        error = result.error();
    }
    if (error != 0)
        raise(error, {});
    return py::make_tuple(done.bytes, done.shared, done.made, done.copied,
                          static_cast<double>(done.nanoseconds) / 1e9);
}

Stats stats_of(const SharedDomain *domain) {
    const std::shared_ptr<const Domain> open = domain != nullptr ? domain->open() : nullptr;
    const Result<Stats> found = open != nullptr ? upm::stats(*open) : upm::stats();
    if (!found)
        raise(found.error(), {});
    return *found;
}

Info find_info() {
    const py::gil_scoped_release released; // the first call looks for backends
    return upm::info();
}

py::list backends() {
    py::list rows;
    for (std::size_t i = 0;; ++i) {
        const Result<BackendStatus> row = backend_status(i);
        if (!row)
            return rows;
        rows.append(py::make_tuple(row->name, row->available, row->active, row->reason));
    }
}

} // namespace

} // namespace upm::python

PYBIND11_MODULE(_core, module) {
    using namespace upm::python; // NOLINT(google-build-using-namespace): as a member would
    module.doc() = "The part of the package upm that is in C++; use the package.";
    add_error(module);
    add_types(module);
    add_pinned(module);
    add_hook(module);
    module.attr("__version__") = UPM_VERSION;
    const py::object none = py::none();
    module.def("advise", &advise_ranges, py::arg("ranges"), py::arg("dry_run") = false,
               py::arg("quiescent") = false, py::arg("domain") = none, py::arg("pid") = 0,
               "Merges the whole pages inside each range (address, length in bytes).");
    module.def("unmerge", &unmerge_ranges, py::arg("ranges"), py::arg("domain") = none,
               py::arg("pid") = 0, "Gives merged pages of the ranges private copies again.");
    module.def("load", &load_file, py::arg("fd"), py::arg("offset"), py::arg("buffer"),
               py::arg("domain") = none, py::arg("ordinary") = false,
               "Reads a file into a buffer: bytes, shared, made, copied, seconds.");
    module.def("info", &find_info, "Which backend is active, and why.");
    module.def("stats", &stats_of, py::arg("domain") = none,
               "Totals of a domain, or of the default one.");
    module.def("backends", &backends, "Rows (name, available, active, reason), best first.");
}
