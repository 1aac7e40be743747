// SPDX-License-Identifier: MIT
//
// Specifications as engines write them, and odd ones.
#include "tools/upm-runc/spec.hpp"

#include "tools/common/errors.hpp"
#include "tools/common/key.hpp"

#include <cstdio>
#include <functional>
#include <gtest/gtest.h>
#include <string>
#include <sys/stat.h>
#include <unistd.h>

namespace upm::tool::runc {

namespace {

constexpr const char *kKey = "UPM_DOMAIN=00112233445566778899aabbccddeeff";
constexpr std::uint64_t kUnlimited = UINT64_MAX;

class Spec : public testing::Test {
  protected:
    void SetUp() override {
        const int fd = ::mkstemp(launcher_.data());
        ASSERT_GE(fd, 0);
        ASSERT_EQ(::fchmod(fd, 0755), 0);
        (void)::close(fd);
        spec_ = {
            {"ociVersion", "1.0.2"},
            {"process",
             {{"user", {{"uid", 1000}}},
              {"args", {"python3", "app.py"}},
              {"env", {"PATH=/usr/bin", "LD_PRELOAD=/opt/upm/libupm-preload.so", kKey}},
              {"rlimits", Json::array({{{"type", "RLIMIT_NOFILE"}, {"hard", 9}, {"soft", 9}}})},
              {"apparmorProfile", "docker-default"}}},
            {"mounts",
             Json::array({{{"destination", "/proc"}, {"type", "proc"}, {"source", "proc"}},
                          {{"destination", tool::kLauncherInside},
                           {"type", "bind"},
                           {"source", launcher_},
                           {"options", {"bind", "ro", "nosuid", "nodev"}}}})},
            {"linux", {{"resources", Json::object()}}}};
    }
    void TearDown() override { (void)::unlink(launcher_.c_str()); }

    using Change = std::function<void(Json &)>;

    // The arguments of a container that is like the usual one but for this.
    Json arguments(
        const Change &change = [](Json &) {}, std::uint64_t hard = kUnlimited) {
        Json spec = spec_;
        change(spec);
        const Json before = spec;
        EXPECT_TRUE(change_spec(spec, hard));
        Json found = spec["process"]["args"];
        spec["process"]["args"] = before["process"]["args"];
        spec["linux"].erase("personality");
        Json expected = before;
        expected["linux"].erase("personality");
        EXPECT_EQ(spec, expected) << "nothing else changes";
        return found;
    }
    // Why such a container is left alone.
    std::string why(const Change &change, std::uint64_t hard = kUnlimited) {
        Json spec = spec_;
        change(spec);
        try {
            EXPECT_TRUE(change_spec(spec, hard));
        } catch (const Failure &failure) {
            return failure.what();
        } catch (const Json::exception &failure) {
            return failure.what();
        }
        ADD_FAILURE() << "was changed: " << spec.dump();
        return "";
    }

    std::string launcher_ = "/tmp/upm-runc-test-XXXXXX";
    Json spec_;
};

TEST_F(Spec, TheLauncherComesBeforeTheProgram) {
    EXPECT_EQ(arguments(), Json({tool::kLauncherInside, "python3", "app.py"}));
}

TEST_F(Spec, ItComesOnce) {
    ASSERT_TRUE(change_spec(spec_, kUnlimited));
    const Json once = spec_;
    ASSERT_TRUE(change_spec(spec_, kUnlimited));
    EXPECT_EQ(spec_, once);
}

TEST_F(Spec, ItComesBehindAnInit) {
    for (const char *init :
         {"/run/podman-init", "/dev/init/catatonit", "/sbin/docker-init", "tini"})
        EXPECT_EQ(arguments([&](Json &spec) {
                      spec["process"]["args"] = {init, "--", "python3", "app.py"};
                  }),
                  Json({init, "--", tool::kLauncherInside, "python3", "app.py"}));
    EXPECT_EQ(arguments([](Json &spec) {
                  spec["process"]["args"] = {"tini", "-g", "--", "x"};
              }),
              Json({tool::kLauncherInside, "tini", "-g", "--", "x"}));
    EXPECT_EQ(arguments([](Json &spec) {
                  spec["process"]["args"] = {"tini", "--"};
              }),
              Json({tool::kLauncherInside, "tini", "--"}));
}

TEST_F(Spec, OthersAreNoMembers) {
    for (const Change &change : {Change([](Json &spec) { spec.erase("process"); }),
                                 Change([](Json &spec) { spec["process"].erase("env"); }),
                                 Change([](Json &spec) { spec["process"]["env"] = {"A=B"}; })}) {
        Json spec = spec_;
        change(spec);
        const Json before = spec;
        EXPECT_FALSE(change_spec(spec, kUnlimited));
        EXPECT_EQ(spec, before);
    }
}

TEST_F(Spec, AKeyInAFileOfTheContainer) {
    EXPECT_EQ(
        arguments([](Json &spec) { spec["process"]["env"] = {"UPM_DOMAIN=/run/key"}; }).size(), 3U);
}

TEST_F(Spec, KeysThatAreNone) {
    for (const char *key : {"UPM_DOMAIN=", "UPM_DOMAIN=0", "UPM_DOMAIN=team-a"})
        EXPECT_NE(why([&](Json &spec) { spec["process"]["env"] = {key}; }).find("one key"),
                  std::string::npos);
    EXPECT_NE(why([](Json &spec) { spec["process"]["env"].push_back(kKey); }).find("one key"),
              std::string::npos);
}

TEST_F(Spec, TheLauncherHasToBeThere) {
    const auto mount = [](Json &spec) -> Json & { return spec["mounts"][1]; };
    EXPECT_NE(why([](Json &spec) { spec["mounts"].erase(1); }).find("nothing is mounted"),
              std::string::npos);
    EXPECT_NE(why([](Json &spec) { spec.erase("mounts"); }).find("nothing is mounted"),
              std::string::npos);
    EXPECT_NE(why([&](Json &spec) { mount(spec)["source"] = "/nonesuch"; }).find("no file"),
              std::string::npos);
    EXPECT_NE(why([&](Json &spec) { mount(spec)["source"] = "/tmp"; }).find("no file"),
              std::string::npos);
    EXPECT_NE(why([&](Json &spec) { mount(spec)["options"].push_back("noexec"); }).find("noexec"),
              std::string::npos);
    for (const mode_t mode : {0750, 0754, 0751, 0644}) {
        ASSERT_EQ(::chmod(launcher_.c_str(), mode), 0);
        EXPECT_NE(why([](Json &) {}).find("run by everybody"), std::string::npos) << mode;
    }
}

TEST_F(Spec, TheStackHasToBeUnlimited) {
    const auto limited = [](Json &spec) {
        spec["process"]["rlimits"].push_back(
            {{"type", "RLIMIT_STACK"}, {"soft", 8 << 20}, {"hard", 1ULL << 43}});
    };
    EXPECT_NE(why(limited).find("hard limit"), std::string::npos);
    EXPECT_NE(why([](Json &) {}, 1ULL << 43).find("hard limit"), std::string::npos);
    EXPECT_EQ(arguments(
                  [](Json &spec) {
                      spec["process"]["rlimits"].push_back(
                          {{"type", "RLIMIT_STACK"}, {"soft", 8 << 20}, {"hard", kUnlimited}});
                  },
                  8 << 20)
                  .size(),
              3U);
}

TEST_F(Spec, Personalities) {
    EXPECT_EQ(arguments([](Json &spec) {
                  spec["linux"]["personality"] = {{"domain", "LINUX"}};
              }).size(),
              3U);
    for (const Json &own : {Json({{"domain", "LINUX32"}}), Json::object(),
                            Json({{"domain", "LINUX"}, {"flags", {"NEW"}}})})
        EXPECT_NE(why([&](Json &spec) { spec["linux"]["personality"] = own; }).find("personality"),
                  std::string::npos);
}

TEST_F(Spec, LabelsAndFilters) {
    for (const char *profile : {"", "unconfined", "containers-default-0.50.1", "crio-default"})
        EXPECT_EQ(
            arguments([&](Json &spec) { spec["process"]["apparmorProfile"] = profile; }).size(),
            3U);
    EXPECT_NE(why([](Json &spec) { spec["process"]["apparmorProfile"] = "nginx"; }).find("nginx"),
              std::string::npos);
    EXPECT_NE(why([](Json &spec) {
                  spec["process"]["selinuxLabel"] = "system_u:system_r:container_t:s0";
              }).find("SELinux"),
              std::string::npos);
    EXPECT_NE(why([](Json &spec) {
                  spec["linux"]["seccomp"] = {{"defaultAction", "SCMP_ACT_KILL"}};
              }).find("kills"),
              std::string::npos);
}

TEST_F(Spec, WhatIsNoContainerOfThisKernel) {
    for (const char *other : {"vm", "windows"})
        EXPECT_NE(why([&](Json &spec) { spec[other] = Json::object(); }), "");
    EXPECT_NE(why([](Json &spec) { spec.erase("linux"); }), "");
    EXPECT_NE(why([](Json &spec) { spec["process"].erase("args"); }), "");
    EXPECT_NE(why([](Json &spec) { spec["process"]["args"] = Json::array(); }), "");
    EXPECT_NE(why([](Json &spec) { spec["process"]["args"] = {"python3", 7}; }), "");
    EXPECT_NE(why([](Json &spec) { spec["process"]["args"] = "python3"; }), "");
}

// Each value of the wrong type somewhere throws; it never ends the program.
TEST_F(Spec, WrongTypesEverywhere) {
    const Json flat = spec_.flatten();
    for (const auto &[path, value] : flat.items())
        for (const Json &other : {Json(), Json(7), Json("x"), Json::array(), Json::object()}) {
            Json spec = spec_;
            spec[Json::json_pointer(path)] = other;
            try {
                (void)change_spec(spec, kUnlimited);
            } catch (const std::exception &) {
                continue;
            }
        }
}

TEST(ParseSpec, KeepsNumbersAndOrder) {
    const std::string text =
        R"({"z":18446744073709551615,"a":-9223372036854775808,"m":"ä\u0000\ud83d\ude00","f":0.5})";
    EXPECT_EQ(parse_spec(parse_spec(text).dump()), parse_spec(text));
    EXPECT_EQ(parse_spec(text).begin().key(), "z");
    EXPECT_EQ(parse_spec(text)["z"], UINT64_MAX);
}

TEST(ParseSpec, RefusesWhatCanBeReadInTwoWays) {
    EXPECT_THROW((void)parse_spec(R"({"a":{"b":1,"b":2}})"), Failure);
    EXPECT_THROW((void)parse_spec("[]"), Failure);
    EXPECT_THROW((void)parse_spec(R"({"a":1} x)"), Json::exception);
    EXPECT_THROW((void)parse_spec("{\"a\":\"\xff\"}"), Json::exception);
    EXPECT_THROW((void)parse_spec(""), Json::exception);
    std::string deep;
    for (int i = 0; i < 200'000; ++i)
        deep += "[";
    EXPECT_THROW((void)parse_spec(R"({"a":)" + deep), Failure);
}

} // namespace

} // namespace upm::tool::runc
