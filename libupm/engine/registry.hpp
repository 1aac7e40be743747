// SPDX-License-Identifier: MIT
//
// Chooses the backend of a process from a catalog (api/catalog.hpp has the library's).
#ifndef UPM_ENGINE_REGISTRY_HPP
#define UPM_ENGINE_REGISTRY_HPP

#include "libupm/engine/backend.hpp"

#include <cstddef>
#include <span>
#include <string_view>

namespace upm {

struct CatalogRow {
    const char *name;
    Backend *backend; // nullptr: this build does not have it
};

// In order of preference. The last row is the one that always works.
using Catalog = std::span<const CatalogRow>;

// What the environment asks for.
struct Wish {
    std::string_view backend = "auto"; // UPM_BACKEND
    std::string_view domain;           // UPM_DOMAIN, empty: none
};

struct Choice {
    Backend *backend = nullptr; // open; never null once chosen
    Backend *loader = nullptr;  // the same, for load()
    int domain_fd = -1;         // of Wish::domain
    std::uint8_t domain_key[16] = {};
    Reason reason; // why this one, and for each better one why not
};

// `auto` takes the first row that serves any caller. One that takes only memory vouched for
// (Capabilities::quiescent) comes behind all of these: most callers would get nothing of it.
// It serves loads all the same if the one that is taken does not.
//
// A wish that cannot be met gives the last row of the catalog and a reason. So
// does a domain: to merge in another domain than the one that was asked for would
// share memory with strangers.
void choose(const Wish &wish, const Catalog &catalog, Choice &choice) noexcept;

} // namespace upm

#endif // UPM_ENGINE_REGISTRY_HPP
