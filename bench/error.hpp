// SPDX-License-Identifier: MIT
//
// A benchmark that cannot go on says what it tried and why it failed.
#ifndef UPM_BENCH_ERROR_HPP
#define UPM_BENCH_ERROR_HPP

#include <cerrno>
#include <csignal>
#include <cstring>
#include <stdexcept>
#include <string>

#include <sys/types.h>
#include <sys/wait.h>

namespace upm::bench {

class Error : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
    // `error` is a positive errno.
    Error(const std::string &what, int error)
        : std::runtime_error(what + ": " + std::strerror(error)) {}
};

// The child `pid`, which stays to be waited for, answers no more: says how it ended.
inline Error lost_process(pid_t pid) {
    std::string what = "process " + std::to_string(pid) + " of the benchmark ";
    siginfo_t end{};
    if (::waitid(P_PID, static_cast<id_t>(pid), &end, WEXITED | WNOWAIT) != 0)
        return {what + "cannot be waited for", errno};
    if (end.si_code == CLD_EXITED)
        what += "ended with status " + std::to_string(end.si_status);
    else
        what += "was ended by signal " + std::to_string(end.si_status);
    if (end.si_code != CLD_EXITED && end.si_status == SIGKILL)
        what += " (is there too little memory?)";
    Error lost(what);
    return lost;
}

} // namespace upm::bench

#endif // UPM_BENCH_ERROR_HPP
