// SPDX-License-Identifier: MIT
#ifndef UPM_TOOLS_PSS_REPORT_ERRORS_HPP
#define UPM_TOOLS_PSS_REPORT_ERRORS_HPP

#include <stdexcept>
#include <string>
#include <system_error>

namespace upm::pss {

// The command line is wrong: exit status 2.
class UsageError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// Something could not be read or written: exit status 1. Says path and reason.
class Failure : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
    Failure(const std::string &what, int error)
        : std::runtime_error(what + ": " + std::generic_category().message(error)) {}
};

} // namespace upm::pss

#endif // UPM_TOOLS_PSS_REPORT_ERRORS_HPP
