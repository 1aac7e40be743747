// SPDX-License-Identifier: MIT
//
// The library's backends. This is the only place that knows all of them: the engine
// gets them as a table, and each of them knows the engine's contract only.
#ifndef UPM_API_CATALOG_HPP
#define UPM_API_CATALOG_HPP

#include "libupm/engine/registry.hpp"

namespace upm {

// kmod, store, ksm, none, in order of preference. They are in static storage.
Catalog default_catalog() noexcept;

} // namespace upm

#endif // UPM_API_CATALOG_HPP
