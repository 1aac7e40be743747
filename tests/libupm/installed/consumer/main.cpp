// SPDX-License-Identifier: MIT
#include <upm/upm.hpp>

#include <cerrno>
#include <cstdio>
#include <span>

int main() {
    const upm::Info found = upm::info();
    const auto done = upm::advise(nullptr, 0);
    const auto started = upm::advise_async(nullptr, 0);
    std::printf("%s: %s\n", found.backend, found.reason);
    // UPM_BACKEND=none is set: these are what that backend must give.
    return done.error() == EOPNOTSUPP && started.error() == EOPNOTSUPP ? 0 : 1;
}
