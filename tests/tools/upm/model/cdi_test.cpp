// SPDX-License-Identifier: MIT
//
// The specification that container engines read.
#include "tools/upm/model/cdi.hpp"

#include <gtest/gtest.h>

namespace upm::tool::cli {

namespace {

constexpr const char *kKey = "00112233445566778899aabbccddeeff";

CdiDevice device() {
    return {.name = "team-a",
            .key = kKey,
            .hook = "/usr/lib/libupm-preload.so",
            .launcher = "",
            .preload = ""};
}

TEST(Cdi, NamesAreThoseOfDevices) {
    for (const char *name : {"a", "default", "team-a", "ns.pod:1", "A_1"})
        EXPECT_TRUE(is_cdi_name(name)) << name;
    for (const char *name : {"", "-a", "a-", "a b", "a/b", "../a", "a=b", "ä", "a\n"})
        EXPECT_FALSE(is_cdi_name(name)) << name;
    EXPECT_TRUE(is_cdi_name(std::string(63, 'a')));
    EXPECT_FALSE(is_cdi_name(std::string(64, 'a')));
}

TEST(Cdi, ContainersGetHookSocketAndKey) {
    const Json json = cdi_specification(device());
    EXPECT_EQ(json["kind"], "upm.dev/share");
    EXPECT_EQ(json["devices"][0]["name"], "team-a");
    EXPECT_EQ(json["devices"][0]["containerEdits"]["env"][0], std::string("UPM_DOMAIN=") + kKey);
    const Json &mounts = json["containerEdits"]["mounts"];
    ASSERT_EQ(mounts.size(), 2U);
    EXPECT_EQ(mounts[0]["hostPath"], "/usr/lib/libupm-preload.so");
    EXPECT_EQ("LD_PRELOAD=" + mounts[0]["containerPath"].get<std::string>(),
              json["containerEdits"]["env"][0]);
    EXPECT_EQ(mounts[1]["hostPath"], "/run/upm");
    for (const Json &mount : mounts)
        EXPECT_EQ(mount["options"], Json({"bind", "ro", "nosuid", "nodev"}));
}

TEST(Cdi, TheLauncherOnlyIfItIsInstalled) {
    CdiDevice with = device();
    with.launcher = "/usr/libexec/upm/upm-layout";
    const Json mounts = cdi_specification(with)["containerEdits"]["mounts"];
    ASSERT_EQ(mounts.size(), 3U);
    EXPECT_EQ(mounts[2]["hostPath"], with.launcher);
    EXPECT_EQ(mounts[2]["containerPath"], kLauncherInside);
    EXPECT_EQ(mounts[2]["options"], Json({"bind", "ro", "nosuid", "nodev"}));
}

TEST(Cdi, TheModulesDeviceOnlyIfAskedFor) {
    CdiDevice asked = device();
    const auto nodes = [&] {
        return cdi_specification(asked)["devices"][0]["containerEdits"].contains("deviceNodes");
    };
    EXPECT_FALSE(nodes());
    asked.with_module = true;
    EXPECT_TRUE(nodes());
}

TEST(Cdi, WhatElseIsPreloadedComesAfterTheHook) {
    CdiDevice with = device();
    with.preload = "/usr/lib/libjemalloc.so.2:/opt/own.so";
    const Json json = cdi_specification(with);
    EXPECT_EQ(json["containerEdits"]["env"][0],
              "LD_PRELOAD=/opt/upm/libupm-preload.so:/usr/lib/libjemalloc.so.2:/opt/own.so");
    for (const char *list : {"/a.so", "/a.so:/b-1.2/c++.so.6"})
        EXPECT_TRUE(is_preload_list(list)) << list;
    for (const char *list : {"", "a.so", "/a.so:", ":/a.so", "/a.so::/b.so", "/a b.so", "/a.so;x",
                             "/a.so\n", "/$LIB/a.so", "/a'.so"})
        EXPECT_FALSE(is_preload_list(list)) << list;
}

// Whoever generates it again by what is printed here gets the same.
TEST(Cdi, TheOptionsAreFoundAgain) {
    CdiDevice asked = device();
    EXPECT_EQ(options_of_specification(dump(cdi_specification(asked))), "");
    asked.with_module = true;
    asked.preload = "/a.so:/b.so";
    EXPECT_EQ(options_of_specification(dump(cdi_specification(asked))),
              " --module --preload /a.so:/b.so");
    for (const char *text :
         {"", "{", "[]", R"({"devices": []})",
          R"({"devices":[{"containerEdits":{}}],"containerEdits":{"env":[7]}})",
          R"({"devices":[{"containerEdits":{}}],)"
          R"("containerEdits":{"env":["LD_PRELOAD=/opt/upm/libupm-preload.so:/a;reboot"]}})"})
        EXPECT_EQ(options_of_specification(text), "") << text;
}

TEST(Cdi, TheKeyIsFoundAgain) {
    EXPECT_EQ(key_in_specification(dump(cdi_specification(device()))), kKey);
    for (const char *text : {"", "{", "[]", R"({"devices": []})", R"({"devices": [{}]})",
                             R"({"devices":[{"containerEdits":{"env":["UPM_DOMAIN=00"]}}]})",
                             R"({"devices":[{"containerEdits":{"env":[7]}}]})"})
        EXPECT_EQ(key_in_specification(text), std::nullopt) << text;
}

} // namespace

} // namespace upm::tool::cli
