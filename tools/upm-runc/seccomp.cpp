// SPDX-License-Identifier: MIT
#include "tools/upm-runc/seccomp.hpp"

#include "tools/common/errors.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace upm::tool::runc {

namespace {

// What upm-layout calls (tests/tools/upm-runc/main_test.py traces it), and what the hook
// calls for a layout.
constexpr std::array<std::string_view, 31> kCalls = {
    "access",          "arch_prctl", "brk",        "close",
    "execve",          "exit_group", "faccessat",  "faccessat2",
    "fgetxattr",       "fstat",      "futex",      "getegid",
    "geteuid",         "getrandom",  "getrlimit",  "mmap",
    "mprotect",        "munmap",     "newfstatat", "openat",
    "personality",     "pread64",    "prlimit64",  "read",
    "readlink",        "readlinkat", "rseq",       "set_robust_list",
    "set_tid_address", "sysinfo",    "write"};

bool allows(const std::string &action) {
    return action == "SCMP_ACT_ALLOW" || action == "SCMP_ACT_LOG";
}

// Everything else ends the program, or asks somebody who may.
bool only_refuses(const std::string &action) {
    return allows(action) || action == "SCMP_ACT_ERRNO";
}

bool names(const Json &rule, std::string_view call) {
    const Json list = rule.value("names", Json::array());
    return std::ranges::any_of(list, [&](const Json &name) { return name == call; });
}

// Returns true if a rule holds for that value of the first argument.
bool holds_for(const Json &rule, std::uint64_t value) {
    const Json conditions = rule.value("args", Json::array());
    return std::ranges::all_of(conditions, [&](const Json &condition) {
        return condition.value("index", 0) == 0 && condition.value("op", "") == "SCMP_CMP_EQ" &&
               condition.value("value", std::uint64_t{0}) == value;
    });
}

bool allows_personality(const Json &profile, const Json &rules, std::uint64_t value) {
    bool allowed = allows(profile.value("defaultAction", ""));
    for (const Json &rule : rules) {
        if (!names(rule, "personality"))
            continue;
        if (!allows(rule.value("action", "")))
            return false; // whatever its conditions say
        allowed = allowed || holds_for(rule, value);
    }
    return allowed;
}

} // namespace

void check_seccomp(const Json &profile) {
    constexpr std::uint64_t kAsk = 0xffffffff; // personality(2)
    if (profile.is_null())
        return;
    if (!only_refuses(profile.value("defaultAction", "")))
        throw Failure("its seccomp profile kills for calls that it does not name");
    const Json rules = profile.value("syscalls", Json::array());
    for (const Json &rule : rules)
        for (const std::string_view call : kCalls)
            if (!only_refuses(rule.value("action", "")) && names(rule, call))
                throw Failure("its seccomp profile kills for " + std::string(call));
    for (const std::uint64_t value : {std::uint64_t{0}, kAsk})
        if (!allows_personality(profile, rules, value))
            throw Failure("its seccomp profile would not let address randomisation be switched "
                          "on again (personality)");
}

} // namespace upm::tool::runc
