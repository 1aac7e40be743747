// SPDX-License-Identifier: MIT
//
// The checks of upm doctor. A cure is a command that the one who asks can type, or begins
// with where it can be typed; only what no command cures is told in words.
#ifndef UPM_TOOLS_UPM_DOCTOR_HPP
#define UPM_TOOLS_UPM_DOCTOR_HPP

#include "tools/common/root.hpp"
#include "tools/upm/read/asker.hpp"

#include <cstdint>
#include <span>
#include <string>

namespace upm::tool::cli {

// kSkip: the answer follows from that of another check, or is not this machine's to give.
enum class Verdict : std::uint8_t { kOk, kWarn, kFail, kSkip };

struct Finding {
    Verdict verdict = Verdict::kOk;
    std::string found; // one line: what there is
    std::string cure;  // one line: what to do; empty when there is nothing
};

inline Finding ok(std::string found) {
    return {.verdict = Verdict::kOk, .found = std::move(found), .cure = ""};
}
inline Finding warn(std::string found, std::string cure) {
    return {.verdict = Verdict::kWarn, .found = std::move(found), .cure = std::move(cure)};
}
inline Finding fail(std::string found, std::string cure) {
    return {.verdict = Verdict::kFail, .found = std::move(found), .cure = std::move(cure)};
}
inline Finding skip(std::string why) {
    return {.verdict = Verdict::kSkip, .found = std::move(why), .cure = ""};
}

struct Machine {
    Root root;
    std::string release; // uname -r
    Asker asker;
};

struct Check {
    const char *name; // stable: scripts read it from the JSON
    Finding (*run)(const Machine &machine);
};

// In the order in which they are best cured: the way without a module first.
std::span<const Check> store_checks();
std::span<const Check> module_checks();
std::span<const Check> system_checks();

// What helps where no backend merges at once: the cure of the first check of the store that
// has one.
std::string store_cure(const Machine &machine);

} // namespace upm::tool::cli

#endif // UPM_TOOLS_UPM_DOCTOR_HPP
