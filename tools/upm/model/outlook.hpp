// SPDX-License-Identifier: MIT
//
// What will be merged here, and what to do for more: one line each, for doctor, status
// and run.
#ifndef UPM_TOOLS_UPM_MODEL_OUTLOOK_HPP
#define UPM_TOOLS_UPM_MODEL_OUTLOOK_HPP

#include <string>
#include <upm/upm.hpp>

namespace upm::tool::cli {

// What decides whether userfaultfd(2) works for a program.
struct Surroundings {
    bool filtered = false;   // a seccomp filter is in place, as in most containers
    bool in_initial = false; // this is the initial user namespace
};

struct Outlook {
    bool merges = false; // unmodified programs, as under `upm run`
    std::string what;
    std::string cure; // empty: nothing is to be done
};

Outlook outlook(const Info &info, const Surroundings &here);

} // namespace upm::tool::cli

#endif // UPM_TOOLS_UPM_MODEL_OUTLOOK_HPP
