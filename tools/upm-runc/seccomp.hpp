// SPDX-License-Identifier: MIT
//
// What the seccomp profile of a container means for upm-layout and the hook inside.
#ifndef UPM_TOOLS_UPM_RUNC_SECCOMP_HPP
#define UPM_TOOLS_UPM_RUNC_SECCOMP_HPP

#include "tools/common/json.hpp"

namespace upm::tool::runc {

// `profile`: linux.seccomp of the specification, or null. Throws Failure if upm-layout could
// be killed, or could not switch address randomisation on again.
void check_seccomp(const Json &profile);

} // namespace upm::tool::runc

#endif // UPM_TOOLS_UPM_RUNC_SECCOMP_HPP
