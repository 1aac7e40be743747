// SPDX-License-Identifier: MIT
//
// A kubelet for one test, over real gRPC: what a device plugin sees of the true one. When it
// starts it removes all sockets of its folder; a plugin that registers is called back.
#ifndef UPM_TESTS_DEVICE_PLUGIN_PLAYED_KUBELET_HPP
#define UPM_TESTS_DEVICE_PLUGIN_PLAYED_KUBELET_HPP

#include "device_plugin.grpc.pb.h"
#include "pod_resources.grpc.pb.h"

#include <atomic>
#include <condition_variable>
#include <functional>
#include <grpcpp/server.h>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace upm::test {

struct HeldDevice {
    std::string name_space;
    std::string pod;
    std::string device;
    std::string resource = "upm.dev/share";
};

class PlayedKubelet final : public v1beta1::Registration::Service,
                            public v1::PodResourcesLister::Service {
  public:
    explicit PlayedKubelet(std::string folder);
    ~PlayedKubelet() override;
    PlayedKubelet(const PlayedKubelet &) = delete;
    PlayedKubelet &operator=(const PlayedKubelet &) = delete;

    void start();
    void stop();

    // How to answer from now on.
    enum class Manner { kWell, kRefuse, kNever };
    void answer_registrations(Manner manner) { registrations_ = manner; }
    void answer_lists(Manner manner) { lists_ = manner; }
    void hold(std::vector<HeldDevice> held);

    // What came. Each waits until there is something.
    v1beta1::RegisterRequest next_registration();
    [[nodiscard]] int asked_to_register() const { return asked_; }
    // The devices' state once all of them are in this one.
    v1beta1::ListAndWatchResponse wait_for(const std::string &health);
    // Leaves the plugin's stream, as after an error.
    void stop_listening();

    // The plugin, to be asked anything.
    [[nodiscard]] std::unique_ptr<v1beta1::DevicePlugin::Stub> plugin() const;
    [[nodiscard]] std::string plugin_socket() const { return folder_ + "/upm.dev-share.sock"; }
    [[nodiscard]] std::string pod_resources() const { return folder_ + "/pods.sock"; }

    grpc::Status allocate(const std::vector<std::string> &devices,
                          v1beta1::ContainerAllocateResponse &answer) const;
    [[nodiscard]] grpc::Status pre_start(const std::vector<std::string> &devices) const;

  private:
    grpc::Status Register(grpc::ServerContext *context, const v1beta1::RegisterRequest *request,
                          v1beta1::Empty *answer) override;
    grpc::Status List(grpc::ServerContext *context, const v1::ListPodResourcesRequest *request,
                      v1::ListPodResourcesResponse *answer) override;
    void listen();
    grpc::Status act(grpc::ServerContext &context, Manner manner);

    std::string folder_;
    std::unique_ptr<grpc::Server> server_;
    std::unique_ptr<grpc::Server> pods_server_;
    std::atomic<Manner> registrations_{Manner::kWell};
    std::atomic<Manner> lists_{Manner::kWell};
    std::atomic<int> asked_{0};
    std::atomic<bool> stopping_{false};

    std::mutex mutex_;
    std::condition_variable changed_;
    std::vector<v1beta1::RegisterRequest> registered_;
    std::vector<HeldDevice> held_;
    v1beta1::ListAndWatchResponse list_;
    std::unique_ptr<grpc::ClientContext> stream_;
    std::thread listener_;
};

} // namespace upm::test

#endif // UPM_TESTS_DEVICE_PLUGIN_PLAYED_KUBELET_HPP
