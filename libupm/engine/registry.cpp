// SPDX-License-Identifier: MIT
#include "libupm/engine/registry.hpp"

#include "libupm/base/env.hpp"

#include <cerrno>
#include <cstring>
#include <unistd.h>

namespace upm {

namespace {

// Opens a row's backend and the wished domain in it. 0 or -errno and a reason.
int try_row(const CatalogRow &row, const Wish &wish, Choice &choice, Reason &reason) noexcept {
    if (row.backend == nullptr) {
        reason.set("not built");
        return -ENOSYS;
    }
    const int ret = row.backend->open(reason);
    if (ret != 0 || wish.domain.empty())
        return ret;
    if (!row.backend->capabilities().domains) {
        reason.set("has no domains, and UPM_DOMAIN asks for one");
        return -EOPNOTSUPP;
    }
    if (row.backend->use_key(choice.domain_key) == 0)
        return 0;
    const int fd = row.backend->open_domain(choice.domain_key);
    if (fd < 0) {
        reason.set("cannot open the domain that UPM_DOMAIN names: %s", std::strerror(-fd));
        return fd;
    }
    choice.domain_fd = fd;
    return 0;
}

void take_last(const Catalog &catalog, Choice &choice) noexcept {
    Reason unused;
    choice.backend = catalog.back().backend;
    (void)choice.backend->open(unused);
}

// The row that serves only callers who vouch for their memory, as long as nothing better
// is found.
struct Restricted {
    Backend *backend = nullptr;
    int domain_fd = -1;
};

void take_restricted(const Restricted &found, Choice &choice) noexcept {
    choice.backend = found.backend;
    choice.domain_fd = found.domain_fd;
}

void choose_best(const Wish &wish, const Catalog &catalog, Choice &choice) noexcept {
    choice.reason.set("auto: ");
    const char *separator = "";
    Restricted restricted;
    for (const CatalogRow &row : catalog.first(catalog.size() - 1)) {
        if (row.backend == nullptr)
            continue; // no news to a user who did not ask for it
        Reason reason;
        const int ret = try_row(row, wish, choice, reason);
        choice.reason.append("%s%s: %s", separator, row.name, reason.c_str());
        separator = "; ";
        if (ret != 0)
            continue;
        const Capabilities can = row.backend->capabilities();
        if (!can.quiescent) {
            choice.backend = row.backend;
            if (restricted.backend != nullptr && !can.load)
                choice.loader = restricted.backend;
            if (restricted.domain_fd >= 0)
                ::close(restricted.domain_fd);
            return;
        }
        if (restricted.backend == nullptr)
            restricted = {.backend = row.backend, .domain_fd = choice.domain_fd};
        choice.domain_fd = -1;
    }
    if (restricted.backend != nullptr)
        take_restricted(restricted, choice);
    else
        take_last(catalog, choice);
}

void choose_named(const Wish &wish, const Catalog &catalog, Choice &choice) noexcept {
    const int length = static_cast<int>(wish.backend.size());
    choice.reason.set("UPM_BACKEND=%.*s: ", length, wish.backend.data());
    for (const CatalogRow &row : catalog) {
        if (wish.backend != row.name)
            continue;
        Reason reason;
        const int ret = try_row(row, wish, choice, reason);
        choice.reason.append("%s", reason.c_str());
        if (ret == 0)
            choice.backend = row.backend;
        else
            take_last(catalog, choice);
        return;
    }
    choice.reason.append("no such backend (auto");
    for (const CatalogRow &row : catalog)
        choice.reason.append(", %s", row.name);
    choice.reason.append(")");
    take_last(catalog, choice);
}

} // namespace

void choose(const Wish &wish, const Catalog &catalog, Choice &choice) noexcept {
    choice.domain_fd = -1;
    choice.loader = nullptr;
    if (!wish.domain.empty() && !env::find_key(wish.domain, choice.domain_key)) {
        choice.reason.set(wish.domain.starts_with('/')
                              ? "UPM_DOMAIN names no file with a key of 32 hex digits"
                              : "UPM_DOMAIN is not a key of 32 hex digits");
        take_last(catalog, choice);
    } else if (wish.backend == "auto" || wish.backend.empty()) {
        choose_best(wish, catalog, choice);
    } else {
        choose_named(wish, catalog, choice);
    }
    if (choice.loader == nullptr)
        choice.loader = choice.backend;
}

} // namespace upm
