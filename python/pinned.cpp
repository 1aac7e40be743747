// SPDX-License-Identifier: MIT
//
// The memory behind an object of the buffer protocol, held in place.
#include "python/core.hpp"

#include <algorithm>
#include <utility>

namespace py = pybind11;

namespace upm::python {

namespace {

// While it lives, a bytearray cannot be resized nor a memory map be closed.
class Pinned {
  public:
    explicit Pinned(const py::object &object) {
        if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_FULL_RO) != 0)
            throw py::error_already_set();
        held_ = true;
        if (view_.suboffsets != nullptr) {
            release();
            throw py::value_error("the buffer is one of pointers (it has suboffsets), not one of "
                                  "bytes in one piece of memory");
        }
    }
    Pinned(const Pinned &) = delete;
    Pinned &operator=(const Pinned &) = delete;
    ~Pinned() { release(); }

    void release() noexcept {
        if (std::exchange(held_, false))
            PyBuffer_Release(&view_);
    }

    // From the first byte of any element to the last, whatever the strides.
    [[nodiscard]] std::pair<std::uintptr_t, std::size_t> range() const {
        if (!held_)
            throw py::value_error("the buffer was released");
        const auto first = reinterpret_cast<std::uintptr_t>(view_.buf);
        if (view_.len == 0)
            return {first, 0};
        if (view_.strides == nullptr)
            return {first, static_cast<std::size_t>(view_.len)};
        Py_ssize_t below = 0;
        Py_ssize_t above = view_.itemsize;
        for (int i = 0; i < view_.ndim; ++i) {
            const Py_ssize_t span = view_.strides[i] * (view_.shape[i] - 1);
            below += std::min<Py_ssize_t>(span, 0);
            above += std::max<Py_ssize_t>(span, 0);
        }
        return {first - static_cast<std::uintptr_t>(-below),
                static_cast<std::size_t>(above - below)};
    }

  private:
    Py_buffer view_{};
    bool held_ = false;
};

} // namespace

void add_pinned(py::module_ &module) {
    py::class_<Pinned>(module, "Pinned", "The memory of a buffer, held in place.")
        .def(py::init<const py::object &>(), py::arg("object"))
        .def_property_readonly("range", &Pinned::range, "Address and length, in bytes.")
        .def("release", &Pinned::release, "Lets go of the buffer.");
}

} // namespace upm::python
