// SPDX-License-Identifier: MIT
//
// The checks of upm doctor.
#ifndef UPM_TOOLS_UPM_DOCTOR_HPP
#define UPM_TOOLS_UPM_DOCTOR_HPP

#include "tools/common/root.hpp"

#include <cstdint>
#include <span>
#include <string>

namespace upm::tool::cli {

enum class Verdict : std::uint8_t { kOk, kWarn, kFail };

struct Finding {
    Verdict verdict = Verdict::kOk;
    std::string found; // one line: what there is
    std::string cure;  // one line: what to do; empty when there is nothing
};

struct Machine {
    Root root;
    std::string release; // uname -r
};

struct Check {
    const char *name; // stable: scripts read it from the JSON
    Finding (*run)(const Machine &machine);
};

// In the order in which they are best cured.
std::span<const Check> doctor_checks();

} // namespace upm::tool::cli

#endif // UPM_TOOLS_UPM_DOCTOR_HPP
