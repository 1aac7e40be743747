// SPDX-License-Identifier: MIT
//
// What the kubelet says of the pods that hold devices. It is the only one who knows: a
// request to start a container names devices, and no pod.
#ifndef UPM_TOOLS_DEVICE_PLUGIN_PODS_HPP
#define UPM_TOOLS_DEVICE_PLUGIN_PODS_HPP

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include <grpcpp/channel.h>

namespace upm::plugin {

// A channel to a Unix socket that shares nothing with others: not how long to wait before
// the next try, nor a proxy of the environment.
std::shared_ptr<grpc::Channel> channel_to(const std::string &socket);

// For each device the namespaces of the pods that hold it.
using Holders = std::map<std::string, std::set<std::string>>;

class Pods {
  public:
    Pods(std::string socket, std::string resource);

    // Nothing, and why, if the kubelet does not say.
    std::optional<Holders> holders(std::string &why) const;

  private:
    std::string socket_;
    std::string resource_;
};

// The one namespace that holds all of these devices. Nothing if one of them is held by
// nobody or by pods of several: then nobody can say whose container this is.
std::optional<std::string> namespace_of(const Holders &holders,
                                        const std::vector<std::string> &devices);

} // namespace upm::plugin

#endif // UPM_TOOLS_DEVICE_PLUGIN_PODS_HPP
