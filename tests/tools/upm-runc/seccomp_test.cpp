// SPDX-License-Identifier: MIT
//
// Profiles as engines write them.
#include "tools/upm-runc/seccomp.hpp"

#include "tools/common/errors.hpp"

#include <gtest/gtest.h>

namespace upm::tool::runc {

namespace {

Json rule(const char *name, const char *action, const Json &conditions = Json::array()) {
    return {{"names", {name}}, {"action", action}, {"args", conditions}};
}

Json condition(std::uint64_t value, const char *op = "SCMP_CMP_EQ", unsigned index = 0) {
    return {{"index", index}, {"value", value}, {"op", op}};
}

Json profile(const char *fallback, const Json &rules) {
    return {{"defaultAction", fallback}, {"syscalls", rules}};
}

// moby's and podman's: five values of personality(2) are allowed, one for each rule.
Json usual() {
    Json rules = Json::array();
    for (const std::uint64_t value : {0UL, 8UL, 0x20000UL, 0x20008UL, 0xffffffffUL})
        rules.push_back(rule("personality", "SCMP_ACT_ALLOW", Json::array({condition(value)})));
    rules.push_back(rule("clone3", "SCMP_ACT_ERRNO"));
    return profile("SCMP_ACT_ERRNO", rules);
}

TEST(Seccomp, UsualProfilesWillDo) {
    EXPECT_NO_THROW(check_seccomp(Json()));
    EXPECT_NO_THROW(check_seccomp(usual()));
    EXPECT_NO_THROW(check_seccomp(profile("SCMP_ACT_ALLOW", Json::array())));
    EXPECT_NO_THROW(check_seccomp(
        profile("SCMP_ACT_ERRNO", Json::array({rule("personality", "SCMP_ACT_ALLOW")}))));
    EXPECT_NO_THROW(check_seccomp(
        profile("SCMP_ACT_ALLOW", Json::array({rule("reboot", "SCMP_ACT_KILL_PROCESS")}))));
}

TEST(Seccomp, RandomisationHasToComeBack) {
    for (const std::uint64_t needed : {0UL, 0xffffffffUL}) {
        Json other = usual();
        for (Json &entry : other["syscalls"])
            if (!entry["args"].empty() && entry["args"][0]["value"] == needed)
                entry["args"][0]["value"] = 0x20000;
        EXPECT_THROW(check_seccomp(other), Failure) << needed;
    }
    EXPECT_THROW(check_seccomp(profile("SCMP_ACT_ERRNO", Json::array())), Failure);
    for (const char *action : {"SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_NOTIFY"}) {
        const Json refused = rule("personality", action, Json::array({condition(0x40000)}));
        EXPECT_THROW(check_seccomp(profile("SCMP_ACT_ALLOW", Json::array({refused}))), Failure);
        Json both = usual();
        both["syscalls"].push_back(refused);
        EXPECT_THROW(check_seccomp(both), Failure) << action;
    }
}

TEST(Seccomp, ConditionsThatAreNotUnderstoodAllowNothing) {
    for (const Json &odd : {condition(0, "SCMP_CMP_MASKED_EQ"), condition(0, "SCMP_CMP_EQ", 1),
                            condition(0, "SCMP_CMP_NE")})
        EXPECT_THROW(check_seccomp(profile(
                         "SCMP_ACT_ERRNO",
                         Json::array({rule("personality", "SCMP_ACT_ALLOW", Json::array({odd}))}))),
                     Failure)
            << odd;
}

TEST(Seccomp, NobodyIsKilled) {
    for (const char *action : {"SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL_PROCESS",
                               "SCMP_ACT_TRAP", "SCMP_ACT_TRACE", "SCMP_ACT_NOTIFY", "", "new"}) {
        Json other = usual();
        other["defaultAction"] = action;
        EXPECT_THROW(check_seccomp(other), Failure) << action;
        other = usual();
        other["syscalls"].push_back(rule("prlimit64", action));
        EXPECT_THROW(check_seccomp(other), Failure) << action;
        other = usual();
        other["syscalls"].push_back(rule("reboot", action));
        EXPECT_NO_THROW(check_seccomp(other)) << action;
    }
}

} // namespace

} // namespace upm::tool::runc
