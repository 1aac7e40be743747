// SPDX-License-Identifier: MIT
//
// The parts of upm._core, the half of the Python package that is in C++. Each adds
// its names to the module. The rest is in Python, where it is easier to read: it
// finds the memory behind an object, and calls this half with plain ranges.
#ifndef UPM_PYTHON_CORE_HPP
#define UPM_PYTHON_CORE_HPP

#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <upm/upm.hpp>

namespace upm::python {

void add_error(pybind11::module_ &module);
void add_types(pybind11::module_ &module);
void add_pinned(pybind11::module_ &module);
void add_hook(pybind11::module_ &module);

// Raises upm.Error with that errno, and with what was done until then.
[[noreturn]] void raise(int error, const Counts &counts);

// upm.Domain. A call that runs without the interpreter's lock holds the descriptor
// itself, so that close() in another thread cannot pull it away.
struct SharedDomain {
    std::shared_ptr<const Domain> domain; // empty: closed

    // Raises ValueError if it is closed.
    [[nodiscard]] std::shared_ptr<const Domain> open() const;
};

// The hook, if there is one in this process, must know that blocks in the range may
// show shared content from now on.
void tell_hook(std::uintptr_t address, std::size_t length) noexcept;

} // namespace upm::python

#endif // UPM_PYTHON_CORE_HPP
