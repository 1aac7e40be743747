// SPDX-License-Identifier: MIT
//
// Who gets the key of which domain: by what the kubelet says of the pod, and never a common
// one.
#include "tests/tools/device-plugin/fixture.hpp"

#include "tools/device-plugin/keys.hpp"

#include <filesystem>
#include <fstream>
#include <gmock/gmock.h>
#include <set>
#include <sys/stat.h>

namespace upm::test {

namespace {

using Manner = PlayedKubelet::Manner;
using testing::HasSubstr;
using testing::MatchesRegex;

class Domain : public DevicePlugin {
  protected:
    // Containers that must be alone: no two keys are the same.
    static void expect_alone(const std::vector<std::string> &keys) {
        EXPECT_EQ(std::set<std::string>(keys.begin(), keys.end()).size(), keys.size());
    }
};

TEST_F(Domain, PodsOfOneNamespaceShareAndOthersDoNot) {
    start();
    kubelet_.hold(
        {{"team-a", "one", "share-0"}, {"team-a", "two", "share-1"}, {"team-b", "one", "share-2"}});
    const std::string one = key_of({"share-0"});
    EXPECT_THAT(one, MatchesRegex("[0-9a-f]+\n"));
    EXPECT_EQ(one.size(), 33U);
    EXPECT_EQ(key_of({"share-1"}), one);
    EXPECT_NE(key_of({"share-2"}), one);
}

TEST_F(Domain, ANamespaceThatIsNotOnTheListSharesNothing) {
    start();
    kubelet_.hold({{"team-c", "one", "share-0"}, {"team-c", "two", "share-1"}});
    expect_alone({key_of({"share-0"}), key_of({"share-1"})});
    dir_.write("namespaces", "team-c\n"); // the operator changes it while the plugin runs
    EXPECT_EQ(key_of({"share-0"}), key_of({"share-1"}));
    dir_.write("namespaces", "*\n");
    EXPECT_EQ(key_of({"share-0"}), key_of({"share-1"}));
    std::filesystem::remove(dir_.path() + "/namespaces");
    expect_alone({key_of({"share-0"}), key_of({"share-1"})});
}

TEST_F(Domain, WithoutTheKubeletsWordAContainerIsAlone) {
    start();
    kubelet_.hold({{"team-a", "one", "share-0"}, {"team-a", "two", "share-1"}});
    const std::string common = key_of({"share-0"});
    for (const Manner manner : {Manner::kRefuse, Manner::kNever}) {
        kubelet_.answer_lists(manner);
        expect_alone({common, key_of({"share-0"}), key_of({"share-1"})});
    }
    EXPECT_THAT(log(), HasSubstr("shares with nobody"));
    kubelet_.answer_lists(Manner::kWell);
    kubelet_.hold({});
    expect_alone({common, key_of({"share-0"}), key_of({"share-1"})});
}

TEST_F(Domain, ADeviceThatTwoNamespacesSeemToHoldIsAlone) {
    start();
    kubelet_.hold(
        {{"team-a", "one", "share-0"}, {"team-a", "two", "share-1"}, {"team-b", "old", "share-1"}});
    const std::string common = key_of({"share-0"});
    expect_alone({common, key_of({"share-1"}), key_of({"share-0", "share-1"})});
}

TEST_F(Domain, DevicesOfOtherResourcesSayNothing) {
    start();
    kubelet_.hold(
        {{"team-a", "one", "share-0"}, {"team-a", "two", "share-1", "example.com/other"}});
    expect_alone({key_of({"share-0"}), key_of({"share-1"})});
}

TEST_F(Domain, NamesThatAreNoNamespaceAreAlone) {
    start();
    dir_.write("namespaces", "*\n../devices/share-7\n");
    for (const char *name : {"", "..", "../devices/share-7", "a/b", "A", "-a", "a\nb"}) {
        kubelet_.hold({{name, "one", "share-0"}, {name, "two", "share-1"}});
        expect_alone({key_of({"share-0"}), key_of({"share-1"})});
    }
    EXPECT_FALSE(std::filesystem::exists(state() + "/devices/share-7"));
}

// Until it starts, a container finds nobody's key, least of all that of the one before.
TEST_F(Domain, AnAllocatedDeviceForgetsItsLastContainer) {
    start();
    kubelet_.hold({{"team-a", "one", "share-0"}});
    const std::string before = key_of({"share-0"});
    v1beta1::ContainerAllocateResponse edits;
    ASSERT_TRUE(kubelet_.allocate({"share-0"}, edits).ok());
    EXPECT_NE(read_file(state() + "/devices/share-0"), before);
}

// A container that still ends keeps the file that it was started with.
TEST_F(Domain, TheFileOfARunningContainerDoesNotChange) {
    start();
    kubelet_.hold({{"team-a", "one", "share-0"}});
    const std::string before = key_of({"share-0"});
    std::ifstream mounted(state() + "/devices/share-0");
    kubelet_.hold({{"team-b", "two", "share-0"}});
    EXPECT_NE(key_of({"share-0"}), before);
    std::string line;
    ASSERT_TRUE(std::getline(mounted, line));
    EXPECT_EQ(line + "\n", before);
}

TEST_F(Domain, AContainerThatStartsAgainIsAMemberAgain) {
    start();
    kubelet_.hold({{"team-a", "one", "share-0"}});
    const std::string before = key_of({"share-0"});
    ASSERT_TRUE(kubelet_.pre_start({"share-0"}).ok());
    EXPECT_EQ(read_file(state() + "/devices/share-0"), before);
}

TEST_F(Domain, OnlyTheMountShowsAKey) {
    start();
    kubelet_.hold({{"team-a", "one", "share-0"}});
    (void)key_of({"share-0"});
    const auto mode = [&](const std::string &path) {
        struct stat status {};
        EXPECT_EQ(::stat((state() + path).c_str(), &status), 0) << path;
        return status.st_mode & 0777U;
    };
    EXPECT_EQ(mode(""), 0700U);
    EXPECT_EQ(mode("/devices"), 0700U);
    EXPECT_EQ(mode("/devices/share-0"), 0444U) << "for whatever user the container has";
    EXPECT_EQ(mode("/namespaces/team-a"), 0600U);
}

TEST_F(Domain, AFolderThatOthersMayUseIsRefused) {
    dir_.mkdir("state");
    ASSERT_EQ(::chmod(state().c_str(), 0755), 0);
    start_plugin();
    EXPECT_EQ(wait_for_end(), 1);
    EXPECT_THAT(log(), HasSubstr("is no folder that this user alone may use"));
}

TEST(Keys, ANamespaceThatIsMadeAgainIsSomebodyElses) {
    const TempDir dir;
    plugin::Keys keys(dir.path() + "/state");
    const auto key_of = [&](const char *device, const char *name) {
        keys.make_member(device, name);
        return read_file(keys.file(device));
    };
    const std::string first = key_of("share-0", "team-a");
    keys.keep_only({"team-a"});
    keys.keep_only({});
    EXPECT_EQ(key_of("share-1", "team-a"), first) << "missed once: the kubelet may have started";
    keys.keep_only({});
    keys.keep_only({"team-a"});
    keys.keep_only({});
    EXPECT_EQ(key_of("share-1", "team-a"), first) << "seen between";
    keys.keep_only({"team-b"});
    keys.keep_only({"team-b"});
    EXPECT_NE(key_of("share-1", "team-a"), first);
}

TEST(Keys, WhatIsNoKeyIsReplaced) {
    const TempDir dir;
    plugin::Keys keys(dir.path() + "/state");
    for (const char *text : {"", "0123", "zz112233445566778899aabbccddeeff\n"}) {
        dir.write("state/namespaces/team-a", text);
        keys.make_member("share-0", "team-a");
        EXPECT_EQ(read_file(keys.file("share-0")).size(), 33U);
    }
}

} // namespace

} // namespace upm::test
