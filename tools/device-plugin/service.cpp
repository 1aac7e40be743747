// SPDX-License-Identifier: MIT
#include "tools/device-plugin/service.hpp"

#include "tools/common/errors.hpp"
#include "tools/common/files.hpp"
#include "tools/common/text.hpp"
#include "tools/device-plugin/devices.hpp"
#include "tools/device-plugin/log.hpp"

#include <algorithm>
#include <chrono>
#include <optional>
#include <set>
#include <thread>

namespace upm::plugin {

namespace {

using grpc::Status;
using grpc::StatusCode;

constexpr unsigned kMostListeners = 8;   // each takes a thread
constexpr int kMostContainers = 1024;    // in one request
constexpr int kMostDevicesAtOnce = 1024; // of one container

Status nonsense(const std::string &what) {
    return {StatusCode::INVALID_ARGUMENT, what};
}

// In the order of their names, each once. Nothing: there are none, or too many, or one of
// them is no device of this plugin.
template <typename Names>
std::optional<std::vector<std::string>> sorted_devices(const Names &names) {
    if (names.empty() || names.size() > kMostDevicesAtOnce ||
        !std::all_of(names.begin(), names.end(), is_device))
        return std::nullopt;
    const std::set<std::string> sorted(names.begin(), names.end());
    return std::vector<std::string>(sorted.begin(), sorted.end());
}

// The file is read anew each time, since an operator changes it while pods run.
bool may_share(const std::string &file, const std::string &name) {
    std::string text;
    try {
        text = tool::read_file(file);
    } catch (const tool::Failure &) {
        return false;
    }
    bool found = false;
    tool::for_each_line(text, [&](std::string_view line) {
        const std::string_view word = tool::trimmed(line);
        found = found || word == "*" || word == name;
    });
    return found;
}

Status choose(const v1beta1::ContainerPreferredAllocationRequest &asked,
              v1beta1::ContainerPreferredAllocationResponse &answer) {
    const auto &must = asked.must_include_deviceids();
    const auto &available = asked.available_deviceids();
    std::set<std::string> chosen(must.begin(), must.end());
    const auto size = static_cast<std::size_t>(std::max(asked.allocation_size(), 0));
    if (asked.allocation_size() <= 0 || chosen.size() > size)
        return nonsense("more devices must be included than are to be allocated");
    for (const std::string &device : available) {
        if (chosen.size() >= size)
            break;
        chosen.insert(device);
    }
    if (chosen.size() < size || !std::ranges::all_of(chosen, is_device))
        return nonsense("not enough devices, or unknown ones");
    for (const std::string &device : chosen)
        answer.add_deviceids(device);
    return Status::OK;
}

} // namespace

v1beta1::DevicePluginOptions abilities() {
    v1beta1::DevicePluginOptions options;
    options.set_pre_start_required(true);
    options.set_get_preferred_allocation_available(true);
    return options;
}

void Service::set_healthy(bool healthy) {
    const std::scoped_lock hold(mutex_);
    healthy_ = healthy;
    changed_.notify_all();
}

void Service::stop() {
    const std::scoped_lock hold(mutex_);
    stopping_ = true;
    changed_.notify_all();
}

void Service::start() {
    const std::scoped_lock hold(mutex_);
    stopping_ = false;
}

unsigned Service::listeners() {
    const std::scoped_lock hold(mutex_);
    return listeners_;
}

Status Service::GetDevicePluginOptions(grpc::ServerContext * /*context*/,
                                       const v1beta1::Empty * /*request*/,
                                       v1beta1::DevicePluginOptions *answer) {
    *answer = abilities();
    return Status::OK;
}

Status Service::ListAndWatch(grpc::ServerContext *context, const v1beta1::Empty * /*request*/,
                             grpc::ServerWriter<v1beta1::ListAndWatchResponse> *writer) {
    {
        const std::scoped_lock hold(mutex_);
        if (listeners_ >= kMostListeners)
            return {StatusCode::RESOURCE_EXHAUSTED, "too many kubelets"};
        ++listeners_;
    }
    watch(*context, *writer);
    const std::scoped_lock hold(mutex_);
    --listeners_;
    return Status::OK;
}

void Service::watch(grpc::ServerContext &context,
                    grpc::ServerWriter<v1beta1::ListAndWatchResponse> &writer) {
    // A stream that the kubelet has left wakes nobody.
    constexpr std::chrono::milliseconds kLook{500};
    std::optional<bool> told;
    std::unique_lock hold(mutex_);
    while (!stopping_ && !context.IsCancelled()) {
        if (told != healthy_) {
            told = healthy_;
            hold.unlock();
            const bool written = writer.Write(list_of(options_.devices, *told));
            hold.lock();
            if (!written)
                return;
            continue;
        }
        (void)changed_.wait_for(hold, kLook);
    }
}

Status Service::GetPreferredAllocation(grpc::ServerContext * /*context*/,
                                       const v1beta1::PreferredAllocationRequest *request,
                                       v1beta1::PreferredAllocationResponse *answer) {
    if (request->container_requests_size() > kMostContainers)
        return nonsense("too many containers");
    for (const auto &asked : request->container_requests())
        if (Status status = choose(asked, *answer->add_container_responses()); !status.ok())
            return status;
    return Status::OK;
}

// Nobody knows yet whose container it is. Its key is its own until it starts: what lies
// there is that of the container that had the device before.
Status Service::Allocate(grpc::ServerContext * /*context*/, const v1beta1::AllocateRequest *request,
                         v1beta1::AllocateResponse *answer) {
    if (request->container_requests_size() > kMostContainers)
        return nonsense("too many containers");
    for (const auto &asked : request->container_requests()) {
        const auto devices = sorted_devices(asked.devices_ids());
        if (!devices)
            return nonsense("no devices, or unknown ones");
        try {
            for (const std::string &device : *devices)
                keys_.make_alone(device);
        } catch (const std::exception &error) {
            log(error.what());
            return {StatusCode::UNAVAILABLE, tool::utf8(error.what())};
        }
        *answer->add_container_responses() =
            edits_for(options_, keys_, devices->front(), with_cdi_);
    }
    return Status::OK;
}

std::string Service::domain_of(const std::vector<std::string> &devices) const {
    // The kubelet may take a moment to know the pod that it is about to start.
    constexpr std::chrono::milliseconds kPause{200};
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(1);
    std::string why = "the kubelet names no one namespace";
    for (;;) {
        const std::optional<Holders> holders = pods_.holders(why);
        const auto name = holders ? namespace_of(*holders, devices) : std::nullopt;
        if (name)
            return may_share(options_.namespaces, *name) ? *name : "";
        const bool all_held =
            holders && std::ranges::all_of(devices, [&](const std::string &device) {
                return holders->contains(device);
            });
        if (all_held || std::chrono::steady_clock::now() + kPause > give_up)
            break;
        std::this_thread::sleep_for(kPause);
    }
    log("the container with " + devices.front() + " shares with nobody: " + why);
    return {};
}

Status Service::PreStartContainer(grpc::ServerContext * /*context*/,
                                  const v1beta1::PreStartContainerRequest *request,
                                  v1beta1::PreStartContainerResponse * /*answer*/) {
    const auto devices = sorted_devices(request->devices_ids());
    if (!devices)
        return nonsense("no devices, or unknown ones");
    try {
        const std::string name = domain_of(*devices);
        for (const std::string &device : *devices)
            if (name.empty())
                keys_.make_alone(device);
            else
                keys_.make_member(device, name);
    } catch (const std::exception &error) {
        log(error.what());
        return {StatusCode::UNAVAILABLE, tool::utf8(error.what())};
    }
    return Status::OK;
}

} // namespace upm::plugin
