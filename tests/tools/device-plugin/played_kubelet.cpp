// SPDX-License-Identifier: MIT
#include "tests/tools/device-plugin/played_kubelet.hpp"

#include "tools/device-plugin/pods.hpp"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <grpc/grpc.h>
#include <grpcpp/grpcpp.h>
#include <stdexcept>

namespace upm::test {

namespace {

using namespace std::chrono_literals;

// Far more than any step needs.
constexpr auto kPatience = 100s;

std::unique_ptr<grpc::Server> serve(const std::string &socket, grpc::Service *service) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("unix:" + socket, grpc::InsecureServerCredentials());
    builder.RegisterService(service);
    auto server = builder.BuildAndStart();
    if (server == nullptr)
        throw std::runtime_error("cannot listen at " + socket);
    return server;
}

void shut(std::unique_ptr<grpc::Server> &server) {
    if (server == nullptr)
        return;
    server->Shutdown(std::chrono::system_clock::now());
    server->Wait();
    server.reset();
}

} // namespace

// The library stays, to the end of the process: with its last channel it would shut down, and
// wait ten seconds for a connection whose peer has refused what was being written.
PlayedKubelet::PlayedKubelet(std::string folder) : folder_(std::move(folder)) {
    static const bool kStays = (::grpc_init(), true);
    (void)kStays;
}

PlayedKubelet::~PlayedKubelet() {
    stop();
}

void PlayedKubelet::start() {
    for (const auto &entry : std::filesystem::directory_iterator(folder_))
        if (entry.is_socket())
            std::filesystem::remove(entry);
    stopping_ = false;
    pods_server_ = serve(pod_resources(), static_cast<v1::PodResourcesLister::Service *>(this));
    server_ = serve(folder_ + "/kubelet.sock", static_cast<v1beta1::Registration::Service *>(this));
}

void PlayedKubelet::stop() {
    stopping_ = true;
    stop_listening();
    shut(server_);
    shut(pods_server_);
}

void PlayedKubelet::stop_listening() {
    {
        const std::scoped_lock hold(mutex_);
        if (stream_ != nullptr)
            stream_->TryCancel();
    }
    if (listener_.joinable())
        listener_.join();
}

void PlayedKubelet::hold(std::vector<HeldDevice> held) {
    const std::scoped_lock hold(mutex_);
    held_ = std::move(held);
}

grpc::Status PlayedKubelet::act(grpc::ServerContext &context, Manner manner) {
    if (manner == Manner::kRefuse)
        return {grpc::StatusCode::UNIMPLEMENTED, "not I"};
    while (manner == Manner::kNever && !context.IsCancelled() && !stopping_)
        std::this_thread::sleep_for(10ms);
    return grpc::Status::OK;
}

grpc::Status PlayedKubelet::Register(grpc::ServerContext *context,
                                     const v1beta1::RegisterRequest *request,
                                     v1beta1::Empty * /*answer*/) {
    ++asked_;
    const Manner manner = registrations_;
    if (grpc::Status status = act(*context, manner); !status.ok() || manner != Manner::kWell)
        return status;
    stop_listening();
    const std::scoped_lock hold(mutex_);
    registered_.push_back(*request);
    list_.Clear();
    stream_ = std::make_unique<grpc::ClientContext>();
    stream_->set_wait_for_ready(true);
    listener_ = std::thread([this] { listen(); });
    changed_.notify_all();
    return grpc::Status::OK;
}

void PlayedKubelet::listen() {
    const auto stub = plugin();
    const auto reader = stub->ListAndWatch(stream_.get(), {});
    v1beta1::ListAndWatchResponse list;
    while (reader->Read(&list)) {
        const std::scoped_lock hold(mutex_);
        list_ = list;
        changed_.notify_all();
    }
    (void)reader->Finish();
}

grpc::Status PlayedKubelet::List(grpc::ServerContext *context,
                                 const v1::ListPodResourcesRequest * /*request*/,
                                 v1::ListPodResourcesResponse *answer) {
    if (grpc::Status status = act(*context, lists_); !status.ok())
        return status;
    const std::scoped_lock hold(mutex_);
    for (const HeldDevice &held : held_) {
        v1::PodResources &pod = *answer->add_pod_resources();
        pod.set_name(held.pod);
        pod.set_namespace_(held.name_space);
        v1::ContainerResources &container = *pod.add_containers();
        container.set_name("main");
        v1::ContainerDevices &devices = *container.add_devices();
        devices.set_resource_name(held.resource);
        devices.add_device_ids(held.device);
    }
    return grpc::Status::OK;
}

v1beta1::RegisterRequest PlayedKubelet::next_registration() {
    std::unique_lock hold(mutex_);
    if (!changed_.wait_for(hold, kPatience, [&] { return !registered_.empty(); }))
        throw std::runtime_error("nobody registers");
    v1beta1::RegisterRequest request = registered_.front();
    registered_.erase(registered_.begin());
    return request;
}

v1beta1::ListAndWatchResponse PlayedKubelet::wait_for(const std::string &health) {
    std::unique_lock hold(mutex_);
    const bool came = changed_.wait_for(hold, kPatience, [&] {
        return list_.devices_size() != 0 &&
               std::ranges::all_of(list_.devices(),
                                   [&](const auto &device) { return device.health() == health; });
    });
    if (!came)
        throw std::runtime_error("the devices do not become " + health);
    return list_;
}

std::unique_ptr<v1beta1::DevicePlugin::Stub> PlayedKubelet::plugin() const {
    return v1beta1::DevicePlugin::NewStub(plugin::channel_to(plugin_socket()));
}

grpc::Status PlayedKubelet::allocate(const std::vector<std::string> &devices,
                                     v1beta1::ContainerAllocateResponse &answer) const {
    grpc::ClientContext context;
    v1beta1::AllocateRequest request;
    auto &container = *request.add_container_requests();
    for (const std::string &device : devices)
        container.add_devices_ids(device);
    v1beta1::AllocateResponse whole;
    grpc::Status status = plugin()->Allocate(&context, request, &whole);
    if (status.ok() && whole.container_responses_size() == 1)
        answer = whole.container_responses(0);
    return status;
}

grpc::Status PlayedKubelet::pre_start(const std::vector<std::string> &devices) const {
    grpc::ClientContext context;
    v1beta1::PreStartContainerRequest request;
    for (const std::string &device : devices)
        request.add_devices_ids(device);
    v1beta1::PreStartContainerResponse answer;
    return plugin()->PreStartContainer(&context, request, &answer);
}

} // namespace upm::test
