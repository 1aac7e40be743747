// SPDX-License-Identifier: MIT
#include "python/core.hpp"

#include <cerrno>
#include <cstring>
#include <string>

namespace py = pybind11;

namespace upm::python {

namespace {

constexpr const char *kDoc =
    "A call failed; a subclass of OSError.\n\n"
    "errno says why: EOPNOTSUPP (no backend works here, it cannot do this, or it is\n"
    "switched off), ENOMEM (a hole in the range), EINVAL, EPERM and ESRCH (another\n"
    "process), EBADF and EMFILE (domains), or a failure of the connection to upmd.\n"
    "counts holds what was done before the call failed.";

PyObject *error_type = nullptr; // alive as long as the module, which is never unloaded

// What the number does not say.
std::string explain(int error) {
    std::string text = std::strerror(error);
    if (error != EOPNOTSUPP)
        return text;
    const Info info = upm::info();
    text += ": backend ";
    text += info.backend;
    if (info.quiescent != 0)
        text += " takes only memory that nobody writes to meanwhile; say so by quiescent=True";
    text += " (";
    text += info.reason;
    text += ")";
    return text;
}

} // namespace

void raise(int error, const Counts &counts) {
    const auto type = py::reinterpret_borrow<py::object>(error_type);
    py::object instance = type(error, explain(error));
    instance.attr("counts") = py::cast(counts);
    PyErr_SetObject(error_type, instance.ptr());
    throw py::error_already_set();
}

void add_error(py::module_ &module) {
    error_type = PyErr_NewExceptionWithDoc("upm.Error", kDoc, PyExc_OSError, nullptr);
    if (error_type == nullptr)
        throw py::error_already_set();
    module.add_object("Error", py::reinterpret_borrow<py::object>(error_type));
}

} // namespace upm::python
