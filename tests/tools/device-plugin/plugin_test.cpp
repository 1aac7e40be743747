// SPDX-License-Identifier: MIT
//
// The plugin and the kubelet: registration, health, restarts of either, and requests that
// make no sense.
#include "tests/tools/device-plugin/fixture.hpp"

#include "libupm/base/env.hpp"

#include <filesystem>
#include <fstream>
#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <nlohmann/json.hpp>
#include <sys/stat.h>

#include "tools/device-plugin/pods.hpp"

namespace upm::test {

namespace {

using grpc::StatusCode;
using testing::HasSubstr;

TEST_F(DevicePlugin, RegistersAndListsItsDevices) {
    kubelet_.start();
    start_plugin();
    const v1beta1::RegisterRequest request = kubelet_.next_registration();
    EXPECT_EQ(request.version(), "v1beta1");
    EXPECT_EQ(request.resource_name(), "upm.dev/share");
    EXPECT_EQ(request.endpoint(), "upm.dev-share.sock");
    EXPECT_TRUE(request.options().pre_start_required());
    EXPECT_TRUE(request.options().get_preferred_allocation_available());
    const v1beta1::ListAndWatchResponse list = kubelet_.wait_for("Healthy");
    ASSERT_EQ(list.devices_size(), 8);
    EXPECT_EQ(list.devices(7).id(), "share-7");
    grpc::ClientContext context;
    v1beta1::DevicePluginOptions options;
    ASSERT_TRUE(kubelet_.plugin()->GetDevicePluginOptions(&context, {}, &options).ok());
    EXPECT_TRUE(options.pre_start_required());
}

TEST_F(DevicePlugin, WaitsForAKubeletThatComesLater) {
    start_plugin();
    wait_until("the plugin's socket", [&] { return listens(kubelet_.plugin_socket()); });
    kubelet_.start();
    (void)kubelet_.next_registration();
    (void)kubelet_.wait_for("Healthy");
}

TEST_F(DevicePlugin, UnhealthyWithoutTheBrokerAndHealthyWithItsReturn) {
    start();
    (void)broker_.stop(SIGTERM);
    (void)kubelet_.wait_for("Unhealthy");
    broker_.start();
    (void)kubelet_.wait_for("Healthy");
    (void)broker_.stop(SIGKILL); // leaves its socket
    ASSERT_TRUE(std::filesystem::exists(broker_.socket()));
    (void)kubelet_.wait_for("Unhealthy");
    broker_.start();
    (void)kubelet_.wait_for("Healthy");
}

TEST_F(DevicePlugin, UnhealthyWithoutTheHook) {
    start();
    std::filesystem::remove(dir_.path() + "/hook.so");
    (void)kubelet_.wait_for("Unhealthy");
    dir_.write("hook.so", "another");
    (void)kubelet_.wait_for("Healthy");
    dir_.write("hook.so", ""); // as while it is copied
    (void)kubelet_.wait_for("Unhealthy");
    EXPECT_THAT(log(), HasSubstr("unhealthy: the hook " + dir_.path() + "/hook.so"));
}

TEST_F(DevicePlugin, RegistersWithAKubeletThatWasStartedAgain) {
    start();
    for (int i = 0; i < 3; ++i) {
        kubelet_.stop();
        kubelet_.start();
        (void)kubelet_.next_registration();
        (void)kubelet_.wait_for("Healthy");
    }
}

TEST_F(DevicePlugin, MakesItsSocketAgain) {
    start();
    std::filesystem::remove(kubelet_.plugin_socket());
    (void)kubelet_.next_registration();
    (void)kubelet_.wait_for("Healthy");
    EXPECT_TRUE(std::filesystem::exists(kubelet_.plugin_socket()));
}

TEST_F(DevicePlugin, RegistersAgainIfTheKubeletNoLongerListens) {
    start();
    kubelet_.stop_listening();
    (void)kubelet_.next_registration();
    (void)kubelet_.wait_for("Healthy");
}

TEST_F(DevicePlugin, AskedAgainAfterARefusal) {
    kubelet_.answer_registrations(PlayedKubelet::Manner::kRefuse);
    kubelet_.start();
    start_plugin();
    wait_until("two tries", [&] { return kubelet_.asked_to_register() >= 2; });
    EXPECT_THAT(log(), HasSubstr("the kubelet does not register: not I"));
    kubelet_.answer_registrations(PlayedKubelet::Manner::kWell);
    (void)kubelet_.next_registration();
}

TEST_F(DevicePlugin, AKubeletThatNeverAnswersKeepsNobodyFromEnding) {
    kubelet_.answer_registrations(PlayedKubelet::Manner::kNever);
    kubelet_.start();
    start_plugin();
    wait_until("a try", [&] { return kubelet_.asked_to_register() >= 1; });
    EXPECT_EQ(stop(SIGTERM), 0);
}

TEST_F(DevicePlugin, EndsCleanlyAndTakesItsSocketAway) {
    start();
    EXPECT_EQ(stop(SIGTERM), 0) << log();
    EXPECT_FALSE(std::filesystem::exists(kubelet_.plugin_socket()));
}

TEST_F(DevicePlugin, KilledAndStartedAgain) {
    start();
    kubelet_.hold({{"team-a", "one", "share-0"}, {"team-a", "two", "share-1"}});
    const std::string before = key_of({"share-0"});
    EXPECT_EQ(stop(SIGKILL), -SIGKILL);
    start_plugin();
    (void)kubelet_.next_registration();
    (void)kubelet_.wait_for("Healthy");
    EXPECT_EQ(key_of({"share-1"}), before) << "the namespace is the same";
}

TEST_F(DevicePlugin, OneAtATime) {
    start();
    const pid_t first = std::exchange(pid_, -1);
    start_plugin();
    EXPECT_EQ(wait_for_end(), 1);
    EXPECT_THAT(log(), HasSubstr("another upm-device-plugin runs"));
    pid_ = first;
    v1beta1::ContainerAllocateResponse edits;
    EXPECT_TRUE(kubelet_.allocate({"share-0"}, edits).ok());
}

TEST_F(DevicePlugin, ContainersGetHookSocketAndKey) {
    start();
    v1beta1::ContainerAllocateResponse edits;
    ASSERT_TRUE(kubelet_.allocate({"share-3"}, edits).ok());
    EXPECT_EQ(edits.envs().at("LD_PRELOAD"), "/opt/upm/libupm-preload.so");
    EXPECT_EQ(edits.envs().at("UPM_DOMAIN"), "/opt/upm/domain");
    ASSERT_EQ(edits.mounts_size(), 3);
    EXPECT_EQ(edits.mounts(0).host_path(), dir_.path() + "/hook.so");
    EXPECT_EQ(edits.mounts(0).container_path(), "/opt/upm/libupm-preload.so");
    EXPECT_EQ(edits.mounts(1).host_path(), broker_.folder().path());
    EXPECT_EQ(edits.mounts(1).container_path(), "/run/upm");
    EXPECT_EQ(edits.mounts(2).host_path(), state() + "/devices/share-3");
    EXPECT_EQ(edits.mounts(2).container_path(), "/opt/upm/domain");
    for (const v1beta1::Mount &mount : edits.mounts())
        EXPECT_TRUE(mount.read_only());
    EXPECT_EQ(edits.devices_size(), 0);
    EXPECT_EQ(edits.cdi_devices_size(), 0);
}

TEST_F(DevicePlugin, NamesDevicesOfCdiThatItHasWritten) {
    dir_.mkdir("cdi");
    kubelet_.start();
    start_plugin({"--cdi", dir_.path() + "/cdi"});
    (void)kubelet_.next_registration();
    (void)kubelet_.wait_for("Healthy");
    v1beta1::ContainerAllocateResponse edits;
    ASSERT_TRUE(kubelet_.allocate({"share-3"}, edits).ok());
    ASSERT_EQ(edits.cdi_devices_size(), 1);
    EXPECT_EQ(edits.cdi_devices(0).name(), "upm.dev/pod=share-3");
    EXPECT_EQ(edits.mounts_size(), 3) << "older kubelets know no CDI";
    const auto json = nlohmann::json::parse(read_file(dir_.path() + "/cdi/upm.dev-pod.json"));
    EXPECT_EQ(json["kind"], "upm.dev/pod");
    ASSERT_EQ(json["devices"].size(), 8U);
    EXPECT_EQ(json["devices"][3]["name"], "share-3");
    EXPECT_EQ(json["devices"][3]["containerEdits"]["mounts"][0]["hostPath"],
              edits.mounts(2).host_path());
    EXPECT_FALSE(json["containerEdits"].contains("env")) << "it would replace the pod's own";
}

TEST_F(DevicePlugin, OnlyMountsWhereNoSpecificationCanBeWritten) {
    kubelet_.start();
    start_plugin({"--cdi", dir_.path() + "/nowhere"});
    (void)kubelet_.next_registration();
    (void)kubelet_.wait_for("Healthy");
    v1beta1::ContainerAllocateResponse edits;
    ASSERT_TRUE(kubelet_.allocate({"share-3"}, edits).ok());
    EXPECT_EQ(edits.cdi_devices_size(), 0);
    EXPECT_EQ(edits.mounts_size(), 3);
}

// With the runtime upm-runc, containers get a layout by it.
TEST_F(DevicePlugin, PassesTheLauncherInIfTheOperatorWantsLayouts) {
    dir_.mkdir("cdi");
    const std::string launcher = dir_.path() + "/upm-layout";
    dir_.write("upm-layout", "a launcher");
    ASSERT_EQ(::chmod(launcher.c_str(), 0755), 0);
    kubelet_.start();
    start_plugin({"--layout", launcher, "--cdi", dir_.path() + "/cdi"});
    (void)kubelet_.next_registration();
    (void)kubelet_.wait_for("Healthy");
    v1beta1::ContainerAllocateResponse edits;
    ASSERT_TRUE(kubelet_.allocate({"share-3"}, edits).ok());
    ASSERT_EQ(edits.mounts_size(), 4);
    EXPECT_EQ(edits.mounts(3).host_path(), launcher);
    EXPECT_EQ(edits.mounts(3).container_path(), "/opt/upm/upm-layout");
    EXPECT_TRUE(edits.mounts(3).read_only());
    const auto json = nlohmann::json::parse(read_file(dir_.path() + "/cdi/upm.dev-pod.json"));
    const auto &mount = json["containerEdits"]["mounts"][2];
    EXPECT_EQ(mount["hostPath"], launcher);
    EXPECT_EQ(mount["containerPath"], "/opt/upm/upm-layout");
    const std::vector<std::string> options = mount["options"];
    EXPECT_THAT(options, testing::Not(testing::Contains("noexec"))) << "upm-runc would refuse it";
    ASSERT_EQ(::chmod(launcher.c_str(), 0644), 0); // the runtime could not run it
    (void)kubelet_.wait_for("Unhealthy");
    EXPECT_THAT(log(), HasSubstr("unhealthy: the launcher " + launcher));
}

class Labels : public DevicePlugin {
  protected:
    [[nodiscard]] std::string file() const { return dir_.path() + "/labels"; }
    void wait_for_labels(const std::string &text) {
        wait_until(text.c_str(),
                   [&] { return std::filesystem::exists(file()) && read_file(file()) == text; });
    }
};

TEST_F(Labels, SayIfMemoryIsShared) {
    kubelet_.start();
    start_plugin({"--labels", file()});
    const std::string rest = "upm.dev/managed=false\nupm.dev/start-below-free=100\n";
    wait_for_labels("upm.dev/sharing=true\n" + rest);
    std::filesystem::remove(file());
    wait_for_labels("upm.dev/sharing=true\n" + rest);
    (void)broker_.stop(SIGTERM);
    wait_for_labels("upm.dev/sharing=false\n" + rest);
    broker_.start();
    wait_for_labels("upm.dev/sharing=true\n" + rest);
    EXPECT_EQ(stop(SIGTERM), 0);
    EXPECT_FALSE(std::filesystem::exists(file())) << "nobody shares any more";
}

// No machine that runs tests has less than a hundredth of its memory free.
TEST_F(Labels, SayThatMemoryIsPlenty) {
    start_plugin({"--labels", file(), "--start-below-free", "1"});
    wait_for_labels("upm.dev/sharing=false\nupm.dev/managed=false\nupm.dev/start-below-free=1\n");
}

TEST_F(Labels, AFolderThatIsNotThereIsNoReasonToEnd) {
    kubelet_.start();
    start_plugin({"--labels", dir_.path() + "/nowhere/labels"});
    (void)kubelet_.next_registration();
    (void)kubelet_.wait_for("Healthy");
    EXPECT_THAT(log(), HasSubstr("no labels: "));
}

TEST_F(DevicePlugin, PrefersWhatMustBeIncluded) {
    start();
    v1beta1::PreferredAllocationRequest request;
    auto &asked = *request.add_container_requests();
    for (const char *device : {"share-1", "share-2", "share-5"})
        asked.add_available_deviceids(device);
    asked.add_must_include_deviceids("share-5");
    asked.set_allocation_size(2);
    grpc::ClientContext context;
    v1beta1::PreferredAllocationResponse answer;
    ASSERT_TRUE(kubelet_.plugin()->GetPreferredAllocation(&context, request, &answer).ok());
    EXPECT_THAT(answer.container_responses(0).deviceids(),
                testing::ElementsAre("share-1", "share-5"));
    for (const int size : {-1, 0, 4}) {
        grpc::ClientContext again;
        request.mutable_container_requests(0)->set_allocation_size(size);
        EXPECT_EQ(kubelet_.plugin()->GetPreferredAllocation(&again, request, &answer).error_code(),
                  StatusCode::INVALID_ARGUMENT)
            << size;
    }
}

TEST_F(DevicePlugin, RefusesDevicesThatAreNone) {
    start();
    v1beta1::ContainerAllocateResponse edits;
    for (const std::vector<std::string> &devices :
         std::vector<std::vector<std::string>>{{},
                                               {""},
                                               {"share-"},
                                               {"share-00"},
                                               {"share-1", "share-x"},
                                               {"share-99999999999"},
                                               {"../namespaces/team-a"},
                                               {"share-1/../../namespaces/team-a"},
                                               {std::string("share-1\0", 8)},
                                               std::vector<std::string>(5000, "share-1")}) {
        const std::string shown = devices.empty() ? "none" : devices.back();
        EXPECT_EQ(kubelet_.allocate(devices, edits).error_code(), StatusCode::INVALID_ARGUMENT)
            << shown;
        EXPECT_EQ(kubelet_.pre_start(devices).error_code(), StatusCode::INVALID_ARGUMENT) << shown;
    }
    EXPECT_TRUE(std::filesystem::is_empty(state() + "/devices"));
    EXPECT_TRUE(kubelet_.allocate({"share-1", "share-1"}, edits).ok());
}

// Bytes as the kubelet's published interface numbers them, written by hand.
TEST_F(DevicePlugin, TheWireIsThatOfTheKubelet) {
    start();
    grpc::GenericStub stub(plugin::channel_to(kubelet_.plugin_socket()));
    const auto call = [&](const char *method, const std::string &bytes, std::string &answer) {
        grpc::ClientContext context;
        grpc::CompletionQueue queue;
        const grpc::Slice slice(bytes);
        const grpc::ByteBuffer request(&slice, 1);
        grpc::ByteBuffer buffer;
        grpc::Status status;
        const auto reader = stub.PrepareUnaryCall(&context, method, request, &queue);
        reader->StartCall();
        reader->Finish(&buffer, &status, nullptr);
        void *tag = nullptr;
        bool ok = false;
        (void)queue.Next(&tag, &ok);
        std::vector<grpc::Slice> slices;
        answer.clear();
        if (status.ok() && buffer.Dump(&slices).ok())
            for (const grpc::Slice &part : slices)
                answer.append(reinterpret_cast<const char *>(part.begin()), part.size());
        return status.error_code();
    };
    std::string answer;
    // AllocateRequest{1: ContainerAllocateRequest{1: "share-3"}}
    EXPECT_EQ(call("/v1beta1.DevicePlugin/Allocate", "\x0a\x09\x0a\x07share-3", answer),
              StatusCode::OK);
    // ContainerAllocateResponse.envs (1) is a map; mounts (2): 1 inside, 2 on the host, 3 ro.
    EXPECT_THAT(answer, HasSubstr("\x0a\x1d\x0a\x0aUPM_DOMAIN\x12\x0f/opt/upm/domain"));
    EXPECT_THAT(answer, HasSubstr("\x0a\x08/run/upm\x12"));
    EXPECT_THAT(answer, HasSubstr(broker_.folder().path() + "\x18\x01"));
    EXPECT_EQ(call("/v1beta1.DevicePlugin/PreStartContainer", "\x0a\x07share-3", answer),
              StatusCode::OK);
    EXPECT_EQ(answer, "");
    EXPECT_EQ(call("/v1beta1.DevicePlugin/GetDevicePluginOptions", "", answer), StatusCode::OK);
    EXPECT_EQ(answer, "\x08\x01\x10\x01");
    // A field that a later kubelet may send is skipped; what is no message is refused.
    EXPECT_EQ(
        call("/v1beta1.DevicePlugin/PreStartContainer", "\x0a\x07share-3\x9a\x06\x01x", answer),
        StatusCode::OK);
    for (const char *bad : {"\x0a\xff\xff\xff\xff\x0f", "\x0b", "\xff", "\x0a\x7fshare"})
        EXPECT_NE(call("/v1beta1.DevicePlugin/Allocate", bad, answer), StatusCode::OK);
    EXPECT_EQ(call("/v1beta1.DevicePlugin/NoSuchThing", "", answer), StatusCode::UNIMPLEMENTED);
    EXPECT_EQ(call("/v1beta1.DevicePlugin/Allocate", "\x0a\x09\x0a\x07share-3", answer),
              StatusCode::OK);
}

TEST_F(DevicePlugin, SixtyThousandDevicesFitAMessage) {
    kubelet_.start();
    start_plugin({"--devices", "65536"});
    (void)kubelet_.next_registration();
    EXPECT_EQ(kubelet_.wait_for("Healthy").devices_size(), 65'536);
}

TEST_F(DevicePlugin, SaysWhatItDoesNotTake) {
    const auto fails = [&](const std::vector<std::string> &options, const char *words) {
        start_plugin(options);
        EXPECT_EQ(wait_for_end(), 2) << words;
        EXPECT_THAT(log(), HasSubstr(words));
    };
    fails({"--devices", "0"}, "--devices: '0' is no whole number from 1 to 65536");
    fails({"--kubelet", "/" + std::string(100, 'x')}, "is longer than 107 bytes");
    fails({"--hook", "hook.so"}, "--hook takes a full path, not 'hook.so'");
    fails({"--resource", "share"}, "--resource takes a name such as upm.dev/share");
    fails({"--layout", "upm-layout"}, "--layout takes a full path, not 'upm-layout'");
    fails({"--start-below-free", "0"}, "--start-below-free: '0' is no whole number from 1 to 100");
    fails({"stray"}, "stray argument 'stray'");
}

} // namespace

} // namespace upm::test
