// SPDX-License-Identifier: MIT
//
// A benchmark that cannot go on says what it tried and why it failed.
#ifndef UPM_BENCH_ERROR_HPP
#define UPM_BENCH_ERROR_HPP

#include <cstring>
#include <stdexcept>
#include <string>

namespace upm::bench {

class Error : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
    // `error` is a positive errno.
    Error(const std::string &what, int error)
        : std::runtime_error(what + ": " + std::strerror(error)) {}
};

} // namespace upm::bench

#endif // UPM_BENCH_ERROR_HPP
