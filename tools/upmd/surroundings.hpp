// SPDX-License-Identifier: MIT
//
// A broker that is started on demand begins with whatever its first client was given.
#ifndef UPM_UPMD_SURROUNDINGS_HPP
#define UPM_UPMD_SURROUNDINGS_HPP

namespace upm::upmd {

// Lifts resource limits, leaves control groups with their freezers and limits, and gives
// up priorities, as far as this process may. upmd(8) says what stays.
void leave_surroundings() noexcept;

} // namespace upm::upmd

#endif // UPM_UPMD_SURROUNDINGS_HPP
