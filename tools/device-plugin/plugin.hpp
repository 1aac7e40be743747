// SPDX-License-Identifier: MIT
//
// The plugin's life beside the kubelet: it serves at a socket of its own, registers with
// each kubelet that comes, and looks once a second at what its devices depend on.
#ifndef UPM_TOOLS_DEVICE_PLUGIN_PLUGIN_HPP
#define UPM_TOOLS_DEVICE_PLUGIN_PLUGIN_HPP

#include "tools/device-plugin/keys.hpp"
#include "tools/device-plugin/options.hpp"
#include "tools/device-plugin/pods.hpp"
#include "tools/device-plugin/service.hpp"

#include <chrono>
#include <compare>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include <grpcpp/server.h>

namespace upm::plugin {

// Which file has a name. A socket that was made again may get the old inode's number.
struct Identity {
    std::uint64_t device = 0;
    std::uint64_t inode = 0;
    std::int64_t changed_s = 0;
    std::int64_t changed_ns = 0;
    auto operator<=>(const Identity &) const = default;
};

class Plugin {
  public:
    // Throws Failure: there is no place for keys.
    explicit Plugin(Options options);
    ~Plugin();
    Plugin(const Plugin &) = delete;
    Plugin &operator=(const Plugin &) = delete;

    // What is to be done once a second.
    void step();

  private:
    using Clock = std::chrono::steady_clock;

    bool prepare_cdi();
    void look_at_health();
    void tell_labels();
    void serve();
    void start_server(const std::string &socket);
    void stop_server();
    void register_with_kubelet();
    void forget_lost_kubelet();
    void forget_namespaces();
    // Logs a text unless it is what was logged last in this place.
    static void say_once(std::string &last, const std::string &text);

    Options options_;
    Keys keys_;
    Pods pods_;
    Service service_;
    std::unique_ptr<grpc::Server> server_;
    Identity own_;                                 // of the server's socket
    std::optional<Identity> kubelet_;              // that the plugin is registered with
    Clock::time_point registered_{};               // when
    Clock::time_point next_try_{};                 // to register
    Clock::time_point next_sweep_{};               // of namespaces
    std::chrono::seconds pause_{1};                // after a try that failed
    std::string health_ = "nothing was looked at"; // what_ails(), the last time
    std::string labels_;                           // what their file holds
    std::string labelling_;                        // what was said last of that
    std::string serving_;                          // what was said last of the socket
    std::string registering_;                      // and of the kubelet
};

} // namespace upm::plugin

#endif // UPM_TOOLS_DEVICE_PLUGIN_PLUGIN_HPP
