// SPDX-License-Identifier: MIT
//
// The plugin as a program, beside a played kubelet and a broker.
#ifndef UPM_TESTS_DEVICE_PLUGIN_FIXTURE_HPP
#define UPM_TESTS_DEVICE_PLUGIN_FIXTURE_HPP

#include "tests/support/broker_process.hpp"
#include "tests/support/process.hpp"
#include "tests/support/support.hpp"
#include "tests/tools/device-plugin/played_kubelet.hpp"

#include <chrono>
#include <csignal>
#include <fcntl.h>
#include <functional>
#include <gtest/gtest.h>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

namespace upm::test {

inline void wait_until(const char *what, const std::function<bool()> &holds) {
    for (int i = 0; i < 5000; ++i) {
        if (holds())
            return;
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    FAIL() << "does not come: " << what;
}

class DevicePlugin : public testing::Test {
  protected:
    DevicePlugin() : kubelet_(dir_.path() + "/kubelet") {}

    void SetUp() override {
        dir_.mkdir("kubelet");
        dir_.write("hook.so", "a hook");
        dir_.write("namespaces", "# whose pods share\nteam-a\n team-b \n");
    }
    void TearDown() override {
        if (pid_ > 0) {
            EXPECT_EQ(stop(SIGTERM), 0) << log();
        }
        kubelet_.stop();
    }

    void start_plugin(std::vector<std::string> more = {}) {
        std::vector<std::string> words = {UPM_DEVICE_PLUGIN,
                                          "--kubelet",
                                          kubelet_folder(),
                                          "--pod-resources",
                                          kubelet_.pod_resources(),
                                          "--hook",
                                          dir_.path() + "/hook.so",
                                          "--broker",
                                          broker_.socket(),
                                          "--state",
                                          state(),
                                          "--namespaces",
                                          dir_.path() + "/namespaces",
                                          "--devices",
                                          "8"};
        words.insert(words.end(), more.begin(), more.end());
        std::vector<char *> argv;
        argv.reserve(words.size() + 1);
        for (std::string &word : words)
            argv.push_back(word.data());
        argv.push_back(nullptr);
        const std::string log = dir_.path() + "/log";
        pid_ = fork_tied();
        if (pid_ == 0) {
            (void)::dup2(::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600), STDERR_FILENO);
            (void)::close_range(3, ~0U, 0);
            (void)::execv(argv[0], argv.data());
            ::_exit(127);
        }
    }
    // The exit status, or minus the signal.
    int stop(int signal) {
        (void)::kill(pid_, signal);
        return wait_for_end();
    }
    int wait_for_end() {
        int status = -1;
        (void)::waitpid(pid_, &status, 0);
        pid_ = -1;
        return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
    }
    // Both, until the devices can be had.
    void start() {
        kubelet_.start();
        start_plugin();
        (void)kubelet_.next_registration();
        (void)kubelet_.wait_for("Healthy");
    }

    // What a container with these devices finds as its key: allocated and started.
    std::string key_of(const std::vector<std::string> &devices) {
        v1beta1::ContainerAllocateResponse edits;
        const grpc::Status allocated = kubelet_.allocate(devices, edits);
        EXPECT_TRUE(allocated.ok()) << allocated.error_message();
        const grpc::Status started = kubelet_.pre_start(devices);
        EXPECT_TRUE(started.ok()) << started.error_message();
        for (const v1beta1::Mount &mount : edits.mounts())
            if (mount.container_path() == edits.envs().at("UPM_DOMAIN"))
                return read_file(mount.host_path());
        return "";
    }

    // Empty while the plugin has said nothing.
    std::string log() const {
        const std::string path = dir_.path() + "/log";
        return ::access(path.c_str(), F_OK) == 0 ? read_file(path) : "";
    }
    std::string kubelet_folder() const { return dir_.path() + "/kubelet"; }
    std::string state() const { return dir_.path() + "/state"; }

    TempDir dir_;
    BrokerProcess broker_;
    PlayedKubelet kubelet_;
    pid_t pid_ = -1;
};

} // namespace upm::test

#endif // UPM_TESTS_DEVICE_PLUGIN_FIXTURE_HPP
