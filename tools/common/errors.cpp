// SPDX-License-Identifier: MIT
#include "tools/common/errors.hpp"

#include "tools/common/text.hpp"

#include <system_error>

namespace upm::tool {

Failure::Failure(const std::string &what, int error)
    : std::runtime_error(what + ": " + std::generic_category().message(error)) {}

SystemError::SystemError(const std::string &operation, std::string subject, int error)
    : Failure("cannot " + operation + " " + (subject.empty() ? "''" : printable(subject)), error),
      subject_(std::move(subject)), error_(error) {}

} // namespace upm::tool
