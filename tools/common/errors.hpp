// SPDX-License-Identifier: MIT
//
// The errors of a tool. Each says what was tried, on what, and why it failed.
#ifndef UPM_TOOLS_COMMON_ERRORS_HPP
#define UPM_TOOLS_COMMON_ERRORS_HPP

#include <stdexcept>
#include <string>

namespace upm::tool {

// The command line is wrong: exit status 2.
class UsageError : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// Something cannot be done: exit status 1.
class Failure : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
    // "path: No such file or directory"; `error` is a positive errno.
    Failure(const std::string &what, int error);
};

// A system call that failed: "cannot read /proc/12/maps: No such process".
class SystemError : public Failure {
  public:
    SystemError(const std::string &operation, std::string subject, int error);
    // A file, or an address range.
    [[nodiscard]] const std::string &subject() const noexcept { return subject_; }
    // Positive errno.
    [[nodiscard]] int error() const noexcept { return error_; }

  private:
    std::string subject_;
    int error_;
};

} // namespace upm::tool

#endif // UPM_TOOLS_COMMON_ERRORS_HPP
