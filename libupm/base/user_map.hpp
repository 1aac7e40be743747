// SPDX-License-Identifier: MIT
//
// Users as a user namespace shows them: all that it does not know have one number, the
// overflow uid, which in most namespaces is that of the user nobody as well.
#ifndef UPM_BASE_USER_MAP_HPP
#define UPM_BASE_USER_MAP_HPP

#include <sys/types.h>

namespace upm::user_map {

// Returns true if this number may stand for any user that this process's namespace does
// not know. False where all users are known, as on a host.
bool is_ambiguous(uid_t uid) noexcept;

} // namespace upm::user_map

#endif // UPM_BASE_USER_MAP_HPP
