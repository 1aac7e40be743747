// SPDX-License-Identifier: MIT
//
// What the kubelet asks the plugin.
#ifndef UPM_TOOLS_DEVICE_PLUGIN_SERVICE_HPP
#define UPM_TOOLS_DEVICE_PLUGIN_SERVICE_HPP

#include "tools/device-plugin/keys.hpp"
#include "tools/device-plugin/options.hpp"
#include "tools/device-plugin/pods.hpp"

#include <condition_variable>
#include <mutex>
#include <string>
#include <vector>

#include "device_plugin.grpc.pb.h"

namespace upm::plugin {

// At what the plugin offers, for its registration as well.
v1beta1::DevicePluginOptions abilities();

class Service final : public v1beta1::DevicePlugin::Service {
  public:
    // All of them outlive it. `with_cdi`: there is a specification.
    Service(const Options &options, Keys &keys, const Pods &pods, bool with_cdi)
        : options_(options), keys_(keys), pods_(pods), with_cdi_(with_cdi) {}

    void set_healthy(bool healthy);
    // Ends the streams; they stay ended until start().
    void stop();
    void start();
    // How many kubelets listen to the list.
    [[nodiscard]] unsigned listeners();

    grpc::Status GetDevicePluginOptions(grpc::ServerContext *context, const v1beta1::Empty *request,
                                        v1beta1::DevicePluginOptions *answer) override;
    grpc::Status ListAndWatch(grpc::ServerContext *context, const v1beta1::Empty *request,
                              grpc::ServerWriter<v1beta1::ListAndWatchResponse> *writer) override;
    grpc::Status GetPreferredAllocation(grpc::ServerContext *context,
                                        const v1beta1::PreferredAllocationRequest *request,
                                        v1beta1::PreferredAllocationResponse *answer) override;
    grpc::Status Allocate(grpc::ServerContext *context, const v1beta1::AllocateRequest *request,
                          v1beta1::AllocateResponse *answer) override;
    grpc::Status PreStartContainer(grpc::ServerContext *context,
                                   const v1beta1::PreStartContainerRequest *request,
                                   v1beta1::PreStartContainerResponse *answer) override;

  private:
    void watch(grpc::ServerContext &context,
               grpc::ServerWriter<v1beta1::ListAndWatchResponse> &writer);
    // The namespace whose domain a container with these devices is to be in; empty: none.
    [[nodiscard]] std::string domain_of(const std::vector<std::string> &devices) const;

    const Options &options_;
    Keys &keys_;
    const Pods &pods_;
    const bool with_cdi_;

    std::mutex mutex_;
    std::condition_variable changed_;
    bool healthy_ = false;
    bool stopping_ = false;
    unsigned listeners_ = 0;
};

} // namespace upm::plugin

#endif // UPM_TOOLS_DEVICE_PLUGIN_SERVICE_HPP
