// SPDX-License-Identifier: MIT
//
// For programs that the hook is preloaded into: they end at the first thing that is wrong.
#ifndef UPM_TESTS_PRELOAD_CHECK_HPP
#define UPM_TESTS_PRELOAD_CHECK_HPP

#include <cstddef>
#include <cstdio>
#include <cstdlib>

constexpr std::size_t kPage = 4096;
constexpr std::size_t kKib = 1024;

[[noreturn]] inline void fail(const char *what, const char *file, int line) {
    (void)std::fprintf(stderr, "%s:%d: %s\n", file, line, what);
    std::_Exit(1);
}
#define UPM_CHECK(condition)                                                                       \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fail(#condition, __FILE_NAME__, __LINE__);                                             \
    } while (false)

#endif // UPM_TESTS_PRELOAD_CHECK_HPP
