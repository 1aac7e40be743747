// SPDX-License-Identifier: MIT
#include "tools/device-plugin/pods.hpp"

#include "tools/device-plugin/devices.hpp"

#include <chrono>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include "pod_resources.grpc.pb.h"

namespace upm::plugin {

std::shared_ptr<grpc::Channel> channel_to(const std::string &socket) {
    constexpr int kMostBytes = 16 << 20; // as the kubelet's own clients allow
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    arguments.SetMaxReceiveMessageSize(kMostBytes);
    return grpc::CreateCustomChannel("unix:" + socket, grpc::InsecureChannelCredentials(),
                                     arguments);
}

Pods::Pods(std::string socket, std::string resource)
    : socket_(std::move(socket)), resource_(std::move(resource)) {}

std::optional<Holders> Pods::holders(std::string &why) const {
    // A container's start waits for it; the kubelet itself gives up after 30 s.
    constexpr std::chrono::seconds kPatience{2};
    const auto lister = v1::PodResourcesLister::NewStub(channel_to(socket_));
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kPatience);
    v1::ListPodResourcesResponse answer;
    const grpc::Status status = lister->List(&context, {}, &answer);
    if (!status.ok()) {
        why = status.error_message();
        return std::nullopt;
    }
    Holders holders;
    for (const v1::PodResources &pod : answer.pod_resources())
        for (const v1::ContainerResources &container : pod.containers())
            for (const v1::ContainerDevices &devices : container.devices())
                if (devices.resource_name() == resource_)
                    for (const std::string &device : devices.device_ids())
                        holders[device].insert(pod.namespace_());
    return holders;
}

std::optional<std::string> namespace_of(const Holders &holders,
                                        const std::vector<std::string> &devices) {
    std::set<std::string> found;
    for (const std::string &device : devices) {
        const auto holder = holders.find(device);
        if (holder == holders.end())
            return std::nullopt;
        found.insert(holder->second.begin(), holder->second.end());
    }
    if (found.size() != 1 || !is_namespace(*found.begin()))
        return std::nullopt;
    return *found.begin();
}

} // namespace upm::plugin
