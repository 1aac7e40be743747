// SPDX-License-Identifier: MIT
#include "tools/upm/show/prometheus.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace upm::tool::cli {

namespace {

using testing::HasSubstr;
using testing::Not;

constexpr std::uint64_t kPage = 4096;

Json module_json() {
    return Json::parse(R"({
        "knobs": {"enabled": 1, "max_pages": 9223372036854775807, "domain_policy": "container"},
        "statistics": {"pages_shared": 3, "pages_sharing": 5, "lock_ns_max": 1500000,
                       "calls": 7, "bytes_loaded": 123, "general_profit": -1,
                       "scan_ns": 2000000000, "find_ns": 1,
                       "pages_skipped": {"busy": 2, "swapped": 0}},
        "domains": {"4": {"kind": "container uid 0", "pages": 8, "pages_sharing": 5},
                    "9": {"kind": "a \"b\" \\ c", "pages": 1}}})");
}

TEST(Prometheus, SizesAreInBytesAndTimesInSeconds) {
    const std::string text = prometheus_text(module_json(), kPage);
    EXPECT_THAT(text, HasSubstr("\nupm_module_shared_bytes 12288\n"));
    EXPECT_THAT(text, HasSubstr("\nupm_module_saved_bytes 20480\n"));
    EXPECT_THAT(text, HasSubstr("\nupm_module_lock_max_seconds 0.0015\n"));
    EXPECT_THAT(text, HasSubstr("\nupm_module_loaded_bytes_total 123\n"));
    EXPECT_THAT(text, HasSubstr("\nupm_module_skipped_bytes_total{reason=\"busy\"} 8192\n"));
    EXPECT_THAT(text, HasSubstr("\nupm_module_phase_seconds_total{phase=\"scan\"} 2\n"));
}

TEST(Prometheus, EachMetricHasOneHelpAndOneTypeBeforeIt) {
    const std::string text = prometheus_text(module_json(), kPage);
    EXPECT_THAT(text, HasSubstr("# HELP upm_module_calls_total Calls that merge or unmerge.\n"
                                "# TYPE upm_module_calls_total counter\n"
                                "upm_module_calls_total 7\n"));
    EXPECT_THAT(text, HasSubstr("# TYPE upm_module_domain_bytes gauge\n"
                                "upm_module_domain_bytes{domain=\"4\",kind=\"container uid 0\"} "
                                "32768\n"
                                "upm_module_domain_bytes{domain=\"9\",kind=\"a \\\"b\\\" \\\\ c\"} "
                                "4096\n"));
}

TEST(Prometheus, WhatCannotBeReadIsLeftOut) {
    const Json module = {
        {"knobs", {{"enabled", 0}}}, {"statistics", Json::object()}, {"domains", Json::object()}};
    const std::string text = prometheus_text(module, kPage);
    EXPECT_THAT(text, HasSubstr("\nupm_module_enabled 0\n"));
    for (const char *const name : {"shared_bytes", "skipped", "phase", "domain"})
        EXPECT_THAT(text, Not(HasSubstr(name)));
}

TEST(Prometheus, WithoutModule) {
    EXPECT_EQ(prometheus_text(nullptr, kPage), "# HELP upm_module_loaded 1 if the module is "
                                               "loaded.\n# TYPE upm_module_loaded gauge\n"
                                               "upm_module_loaded 0\n");
}

} // namespace

} // namespace upm::tool::cli
