// SPDX-License-Identifier: MIT
#include "tools/device-plugin/plugin.hpp"

#include "tools/common/errors.hpp"
#include "tools/common/files.hpp"
#include "tools/device-plugin/devices.hpp"
#include "tools/device-plugin/health.hpp"
#include "tools/device-plugin/log.hpp"

#include <algorithm>
#include <cerrno>
#include <grpcpp/resource_quota.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>
#include <sys/stat.h>
#include <unistd.h>

namespace upm::plugin {

namespace {

using namespace std::chrono_literals;

std::optional<Identity> identity_of(const std::string &path) {
    struct stat status {};
    if (::lstat(path.c_str(), &status) != 0 || !S_ISSOCK(status.st_mode))
        return std::nullopt;
    return Identity{status.st_dev, status.st_ino, status.st_ctim.tv_sec, status.st_ctim.tv_nsec};
}

} // namespace

Plugin::Plugin(Options options)
    : options_(std::move(options)), keys_(options_.state),
      pods_(options_.pod_resources, options_.resource),
      service_(options_, keys_, pods_, prepare_cdi()) {}

Plugin::~Plugin() {
    stop_server();
    if (!options_.labels.empty())
        (void)::unlink(options_.labels.c_str());
}

bool Plugin::prepare_cdi() {
    if (options_.cdi.empty())
        return false;
    try {
        write_cdi(options_, keys_);
        return true;
    } catch (const tool::Failure &failure) {
        log(std::string("no devices of CDI, only mounts: ") + failure.what());
        return false;
    }
}

void Plugin::say_once(std::string &last, const std::string &text) {
    if (last == text)
        return;
    last = text;
    log(text);
}

void Plugin::step() {
    look_at_health();
    if (!options_.labels.empty())
        tell_labels();
    serve();
    if (server_ == nullptr)
        return;
    forget_lost_kubelet();
    register_with_kubelet();
    forget_namespaces();
}

void Plugin::look_at_health() {
    const std::string ails = what_ails(options_, keys_);
    if (ails == health_)
        return;
    health_ = ails;
    log(ails.empty() ? "the devices are healthy" : "the devices are unhealthy: " + ails);
    service_.set_healthy(ails.empty());
}

// As virt-handler of KubeVirt marks nodes for KSM: if memory is shared now, and if that is so
// because free memory became short. node-feature-discovery makes labels of the lines of such files,
// so that nothing here needs a right in the cluster.
void Plugin::tell_labels() {
    try {
        const std::string text = labels_of(options_, health_.empty());
        if (text == labels_ && ::access(options_.labels.c_str(), F_OK) == 0)
            return;
        tool::write_atomically(options_.labels, text);
        if (::chmod(options_.labels.c_str(), S_IRUSR | S_IWUSR | S_IRGRP | S_IROTH) != 0)
            throw tool::SystemError("make readable", options_.labels, errno);
        labels_ = text;
        labelling_.clear();
    } catch (const tool::Failure &failure) {
        say_once(labelling_, std::string("no labels: ") + failure.what());
    }
}

// A kubelet that starts removes all sockets in its folder.
void Plugin::serve() {
    const std::string socket = options_.kubelet + "/" + options_.endpoint();
    if (server_ != nullptr && identity_of(socket) == own_)
        return;
    stop_server();
    kubelet_.reset();
    next_try_ = {};
    start_server(socket);
}

void Plugin::start_server(const std::string &socket) {
    if (::access(options_.kubelet.c_str(), W_OK) != 0) {
        say_once(serving_,
                 tool::Failure("waits for the kubelet: " + options_.kubelet, errno).what());
        return;
    }
    struct stat status {};
    if (::lstat(socket.c_str(), &status) == 0 && !S_ISSOCK(status.st_mode)) {
        say_once(serving_, socket + " is there, and is no socket");
        return;
    }
    grpc::ResourceQuota quota("upm-device-plugin");
    quota.SetMaxThreads(32);
    constexpr int kMostBytes = 1 << 22;
    grpc::ServerBuilder builder;
    builder.SetResourceQuota(quota)
        .SetMaxReceiveMessageSize(kMostBytes)
        .SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1)
        .SetSyncServerOption(grpc::ServerBuilder::MAX_POLLERS, 2)
        .AddListeningPort("unix:" + socket, grpc::InsecureServerCredentials())
        .RegisterService(&service_);
    service_.start();
    server_ = builder.BuildAndStart();
    const auto own = identity_of(socket);
    if (server_ == nullptr || !own) {
        stop_server();
        say_once(serving_, "cannot listen at " + socket);
        return;
    }
    own_ = *own;
    serving_.clear();
}

void Plugin::stop_server() {
    if (server_ == nullptr)
        return;
    service_.stop();
    server_->Shutdown(std::chrono::system_clock::now() + 1s);
    server_->Wait();
    server_.reset();
}

// A kubelet whose stream has ended takes the devices for lost, and may not say so.
void Plugin::forget_lost_kubelet() {
    constexpr auto kGrace = 5s;
    if (service_.listeners() != 0)
        registered_ = Clock::now();
    else if (kubelet_ && Clock::now() - registered_ > kGrace) {
        log("the kubelet does not listen; registering again");
        kubelet_.reset();
    }
}

void Plugin::register_with_kubelet() {
    const std::string socket = options_.kubelet + "/kubelet.sock";
    const auto kubelet = identity_of(socket);
    if (kubelet && kubelet_ && *kubelet != *kubelet_)
        next_try_ = {};
    if (!kubelet || kubelet == kubelet_ || Clock::now() < next_try_)
        return;
    constexpr auto kPatience = 3s;
    constexpr std::chrono::seconds kLongestPause = 15s;
    v1beta1::RegisterRequest request;
    request.set_version("v1beta1");
    request.set_endpoint(options_.endpoint());
    request.set_resource_name(options_.resource);
    *request.mutable_options() = abilities();
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kPatience);
    v1beta1::Empty answer;
    const auto registration = v1beta1::Registration::NewStub(channel_to(socket));
    const grpc::Status status = registration->Register(&context, request, &answer);
    if (!status.ok()) {
        say_once(registering_, "the kubelet does not register: " + status.error_message());
        next_try_ = Clock::now() + pause_;
        pause_ = std::min(2 * pause_, kLongestPause);
        kubelet_.reset();
        return;
    }
    log("registered " + options_.resource + " with the kubelet");
    registering_.clear();
    kubelet_ = kubelet;
    registered_ = Clock::now();
    pause_ = 1s;
}

void Plugin::forget_namespaces() {
    constexpr auto kSweep = 30s;
    if (!kubelet_ || Clock::now() < next_sweep_)
        return;
    next_sweep_ = Clock::now() + kSweep;
    std::string why;
    const std::optional<Holders> holders = pods_.holders(why);
    if (!holders)
        return;
    std::set<std::string> namespaces;
    for (const auto &[device, names] : *holders)
        namespaces.insert(names.begin(), names.end());
    keys_.keep_only(namespaces);
}

} // namespace upm::plugin
