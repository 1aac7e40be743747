// SPDX-License-Identifier: MIT
//
// For programs that the hook is preloaded into: whether it has come to rest.
#ifndef UPM_TESTS_PRELOAD_RESTS_HPP
#define UPM_TESTS_PRELOAD_RESTS_HPP

#include <filesystem>
#include <fstream>
#include <string>

// Returns true if the hook's thread says that it has nothing to do, as it does without a
// backend, too.
inline bool hook_rests() {
    for (const auto &task : std::filesystem::directory_iterator("/proc/self/task")) {
        std::ifstream file(task.path() / "comm");
        std::string name;
        if (std::getline(file, name) && name == "upm-hook idle")
            return true;
    }
    return false;
}

#endif // UPM_TESTS_PRELOAD_RESTS_HPP
