// SPDX-License-Identifier: MIT
//
// The plugin under a kubelet that is broken or hostile: it stays, small and in working order.
#include "tests/tools/device-plugin/fixture.hpp"

#include <filesystem>
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/un.h>

namespace upm::test {

namespace {

using grpc::StatusCode;

// A mount that goes with the test, also if that fails.
class Mounted {
  public:
    Mounted(const std::string &what, std::string place, const char *type, unsigned long flags,
            const char *options)
        : place_(std::move(place)),
          there_(::mount(what.c_str(), place_.c_str(), type, flags, options) == 0) {}
    Mounted(const Mounted &) = delete;
    Mounted &operator=(const Mounted &) = delete;
    ~Mounted() {
        if (there_)
            (void)::umount2(place_.c_str(), MNT_DETACH);
    }
    [[nodiscard]] bool is_there() const { return there_; }

  private:
    std::string place_;
    bool there_;
};

class Abuse : public DevicePlugin {
  protected:
    [[nodiscard]] std::size_t entries(const char *what) const {
        std::size_t count = 0;
        const std::string folder = "/proc/" + std::to_string(pid_) + "/" + what;
        for ([[maybe_unused]] const auto &entry : std::filesystem::directory_iterator(folder))
            ++count;
        return count;
    }
    void expect_in_order() {
        kubelet_.hold({{"team-a", "one", "share-0"}, {"team-a", "two", "share-1"}});
        EXPECT_EQ(key_of({"share-0"}), key_of({"share-1"}));
    }
};

TEST_F(Abuse, ManyStartsLeaveNothingOpen) {
    start();
    expect_in_order();
    const std::size_t files = entries("fd");
    for (int i = 0; i < 300; ++i)
        ASSERT_TRUE(kubelet_.pre_start({"share-0"}).ok());
    wait_until("as few descriptors as before", [&] { return entries("fd") <= files + 4; });
}

TEST_F(Abuse, ManyListenersAreRefused) {
    start();
    const auto plugin = kubelet_.plugin();
    std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
    std::vector<std::unique_ptr<grpc::ClientReader<v1beta1::ListAndWatchResponse>>> readers;
    int refused = 0;
    for (int i = 0; i < 100; ++i) {
        contexts.push_back(std::make_unique<grpc::ClientContext>());
        readers.push_back(plugin->ListAndWatch(contexts.back().get(), {}));
        v1beta1::ListAndWatchResponse list;
        if (!readers.back()->Read(&list) &&
            readers.back()->Finish().error_code() == StatusCode::RESOURCE_EXHAUSTED)
            ++refused;
    }
    EXPECT_GE(refused, 90);
    EXPECT_LE(entries("task"), 80U);
    expect_in_order();
    for (const auto &context : contexts)
        context->TryCancel();
}

TEST_F(Abuse, LargeRequestsAreRefused) {
    start();
    v1beta1::AllocateRequest request;
    for (int i = 0; i < 2000; ++i)
        request.add_container_requests()->add_devices_ids("share-0");
    grpc::ClientContext context;
    v1beta1::AllocateResponse answer;
    EXPECT_EQ(kubelet_.plugin()->Allocate(&context, request, &answer).error_code(),
              StatusCode::INVALID_ARGUMENT);
    request.Clear();
    request.add_container_requests()->add_devices_ids(std::string(5 << 20, 'x'));
    grpc::ClientContext again;
    EXPECT_EQ(kubelet_.plugin()->Allocate(&again, request, &answer).error_code(),
              StatusCode::RESOURCE_EXHAUSTED);
    expect_in_order();
}

TEST_F(Abuse, AListThatIsTooLongMakesAContainerAlone) {
    start();
    expect_in_order();
    const std::string common = key_of({"share-0"});
    kubelet_.hold({{"team-a", std::string(17 << 20, 'x'), "share-0"}});
    EXPECT_NE(key_of({"share-0"}), common);
    expect_in_order();
}

TEST_F(Abuse, AKubeletThatSaysNothingAtAllKeepsNobodyFromEnding) {
    const int mute = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    (kubelet_folder() + "/kubelet.sock").copy(address.sun_path, sizeof(address.sun_path) - 1);
    ASSERT_EQ(::bind(mute, reinterpret_cast<const sockaddr *>(&address), sizeof(address)), 0);
    ASSERT_EQ(::listen(mute, 8), 0);
    start_plugin();
    wait_until("a try", [&] { return log().find("does not register") != std::string::npos; });
    (void)::close(mute);
    kubelet_.start();
    (void)kubelet_.next_registration();
    expect_in_order();
}

TEST_F(Abuse, WhatIsNoSocketIsLeftAlone) {
    dir_.write("kubelet/upm.dev-share.sock", "somebody's");
    dir_.write("kubelet/kubelet.sock", "somebody's, too");
    start_plugin();
    wait_until("a word",
               [&] { return log().find("is there, and is no socket") != std::string::npos; });
    EXPECT_EQ(stop(SIGTERM), 0);
    EXPECT_EQ(read_file(dir_.path() + "/kubelet/upm.dev-share.sock"), "somebody's");
}

TEST_F(Abuse, AKubeletThatIsNotThereYetIsWaitedFor) {
    std::filesystem::remove(kubelet_folder());
    start_plugin();
    wait_until("a word", [&] { return log().find("waits for the kubelet") != std::string::npos; });
    dir_.mkdir("kubelet");
    kubelet_.start();
    (void)kubelet_.next_registration();
    expect_in_order();
}

// Where no key can be written, no container starts with the key of another.
TEST_F(Abuse, AFullDiskStartsNoContainer) {
    dir_.mkdir("state");
    const Mounted mounted("upm-test", state(), "tmpfs", 0, "size=64k,mode=700");
    if (!mounted.is_there())
        GTEST_SKIP() << "cannot mount a small tmpfs";
    start();
    kubelet_.hold({{"team-a", "one", "share-0"}});
    const std::string before = key_of({"share-0"});
    const std::string filling = state() + "/filling";
    const int full = ::open(filling.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    const std::string block(4096, 'x');
    while (::write(full, block.data(), block.size()) > 0)
        ;
    (void)::close(full);
    kubelet_.hold({{"team-b", "two", "share-0"}});
    v1beta1::ContainerAllocateResponse edits;
    EXPECT_EQ(kubelet_.allocate({"share-0"}, edits).error_code(), StatusCode::UNAVAILABLE);
    EXPECT_EQ(kubelet_.pre_start({"share-0"}).error_code(), StatusCode::UNAVAILABLE);
    std::filesystem::remove(filling);
    EXPECT_NE(key_of({"share-0"}), before);
    EXPECT_EQ(stop(SIGTERM), 0);
}

TEST_F(Abuse, AFolderThatBecomesReadOnlyIsUnhealthy) {
    start();
    const std::string devices = state() + "/devices";
    const Mounted mounted(devices, devices, nullptr, MS_BIND, "");
    if (!mounted.is_there())
        GTEST_SKIP() << "cannot mount";
    constexpr unsigned long kAgain = MS_BIND | MS_REMOUNT;
    ASSERT_EQ(::mount("", devices.c_str(), "", kAgain | MS_RDONLY, ""), 0);
    (void)kubelet_.wait_for("Unhealthy");
    EXPECT_EQ(kubelet_.pre_start({"share-0"}).error_code(), StatusCode::UNAVAILABLE);
    ASSERT_EQ(::mount("", devices.c_str(), "", kAgain, ""), 0);
    (void)kubelet_.wait_for("Healthy");
    expect_in_order();
}

} // namespace

} // namespace upm::test
