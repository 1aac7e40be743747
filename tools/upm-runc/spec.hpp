// SPDX-License-Identifier: MIT
//
// config.json of a container's bundle (OCI runtime specification): whether its program can
// have a keyed layout, and the change that gives it one.
#ifndef UPM_TOOLS_UPM_RUNC_SPEC_HPP
#define UPM_TOOLS_UPM_RUNC_SPEC_HPP

#include "tools/common/json.hpp"

#include <cstdint>
#include <string>

namespace upm::tool::runc {

// Throws Failure, or what the parser throws, for a text that two readers could understand
// in two ways.
Json parse_spec(const std::string &text);

// Puts upm-layout before the program of a container that is a member of a domain.
// `hard_limit` is that of this process's stack, which a container without one gets. Returns
// false for a container that is no member. Throws Failure with why a member is left as it
// is: whatever could keep the container from starting, or its program from getting address
// randomisation back, is a reason. A container that was changed before stays as it is, and
// counts as changed.
bool change_spec(Json &spec, std::uint64_t hard_limit);

} // namespace upm::tool::runc

#endif // UPM_TOOLS_UPM_RUNC_SPEC_HPP
