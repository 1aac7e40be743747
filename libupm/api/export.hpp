// SPDX-License-Identifier: MIT
#ifndef UPM_API_EXPORT_HPP
#define UPM_API_EXPORT_HPP

// The C functions carry no attribute in upm.h, which stays plain C for every
// compiler; their definitions do. A symbol must also stand in libupm.map.
#define UPM_EXPORT extern "C" __attribute__((visibility("default")))

#endif // UPM_API_EXPORT_HPP
