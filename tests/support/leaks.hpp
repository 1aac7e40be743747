// SPDX-License-Identifier: MIT
//
// A program of tests that includes this checks each of its suites for what it leaves behind:
// descriptors, mappings, memory.
#ifndef UPM_TESTS_SUPPORT_LEAKS_HPP
#define UPM_TESTS_SUPPORT_LEAKS_HPP

namespace upm::test {

bool watch_for_leaks();
inline const bool kLeaksAreWatched = watch_for_leaks();

} // namespace upm::test

#endif // UPM_TESTS_SUPPORT_LEAKS_HPP
