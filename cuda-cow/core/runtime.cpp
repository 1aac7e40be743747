// SPDX-License-Identifier: MIT
#include "cuda-cow/core/runtime.hpp"

#include "cuda-cow/core/spares.hpp"
#include "libupm/base/env.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <unistd.h>

namespace upm::cuda {

namespace {

int choose_domain(const RuntimeOptions &options, std::uint8_t (&key)[16]) {
    std::memcpy(key, options.domain.data(), sizeof key);
    const bool given = std::any_of(std::begin(key), std::end(key), [](auto b) { return b != 0; });
    const std::string_view digits = env::raw(env::domain);
    if (!given && !digits.empty() && !env::find_key(digits, key))
        return fail(EINVAL, "UPM_DOMAIN: not 32 hex digits, nor a file with them");
    return 0;
}

} // namespace

RuntimeImpl::~RuntimeImpl() {
    waiter.reset();
    if (context == nullptr || forked())
        return;
    {
        const CurrentContext current(*this);
        spares.reset();
        hasher.reset();
        if (stream != nullptr)
            (void)api.stream_destroy(stream);
    }
    (void)api.primary_release(device);
}

int RuntimeImpl::check(abi::Status status, const char *what) const {
    if (status == abi::kSuccess)
        return 0;
    return fail(error_of(status), "%s: %s", what, status_text(api, status).c_str());
}

int RuntimeImpl::open_device(int ordinal) {
    if (const int error = check(api.device_get(&device, ordinal), "cuDeviceGet"); error != 0)
        return error;
    int vmm = 0;
    int exports = 0;
    (void)api.device_attribute(&vmm, abi::kAttributeVmm, device);
    (void)api.device_attribute(&exports, abi::kAttributePosixFd, device);
    if (vmm == 0 || exports == 0)
        return fail(EOPNOTSUPP, "device %d cannot %s", ordinal,
                    vmm == 0 ? "map memory (virtual memory management)"
                             : "export memory as a file descriptor");
    const abi::MemAllocationProp prop = properties();
    if (const int error = check(api.granularity(&granularity, &prop, abi::kGranularityMinimum),
                                "cuMemGetAllocationGranularity");
        error != 0)
        return error;
    return check(api.primary_retain(&context, device), "cuDevicePrimaryCtxRetain");
}

int RuntimeImpl::open(const RuntimeOptions &options) {
    const InsideLibrary inside;
    pid_ = ::getpid();
    Result<DriverApi> loaded = load_driver(options.driver.c_str());
    if (!loaded)
        return loaded.error();
    api = *loaded;
    if (const int error = open_device(options.device); error != 0)
        return error;
    const CurrentContext current(*this);
    if (const int error =
            check(api.stream_create(&stream, abi::kStreamNonBlocking), "cuStreamCreate");
        error != 0)
        return error;
    waiter = std::make_unique<Waiter>(api, context);
    spares = std::make_unique<Spares>(*this);
    hasher = make_device_hasher(*this);
    if (hasher == nullptr)
        hasher = make_host_hasher(*this);
    broker::Client::Settings settings{.socket = options.socket.empty() ? broker::socket_path()
                                                                       : options.socket,
                                      .timeout_ms = options.timeout_ms};
    if (const int error = choose_domain(options, settings.domain); error != 0)
        return error;
    abi::Uuid uuid = {};
    if (const int error = check(api.device_uuid(&uuid, device), "cuDeviceGetUuid"); error != 0)
        return error;
    std::memcpy(settings.device, uuid.bytes, sizeof settings.device);
    broker = std::make_unique<broker::Client>(std::move(settings));
    return 0;
}

abi::MemAllocationProp RuntimeImpl::properties() const noexcept {
    abi::MemAllocationProp prop = {};
    prop.type = abi::kAllocationPinned;
    prop.requested_handle_types = abi::kHandlePosixFd;
    prop.location = {.type = abi::kLocationDevice, .id = device};
    return prop;
}

int RuntimeImpl::create(std::size_t bytes, abi::Handle &handle) const {
    const abi::MemAllocationProp prop = properties();
    abi::Status status = api.mem_create(&handle, bytes, &prop, 0);
    if (status == abi::kOutOfMemory && spares->give_up())
        status = api.mem_create(&handle, bytes, &prop, 0);
    return check(status, "cuMemCreate");
}

int RuntimeImpl::set_access(const Piece &piece, int access) const {
    const abi::MemAccessDesc description{.location = {.type = abi::kLocationDevice, .id = device},
                                         .flags = access};
    return check(api.mem_set_access(piece.address, piece.bytes, &description, 1), "cuMemSetAccess");
}

int RuntimeImpl::unmap(std::span<const Piece> neighbours, std::size_t &done) const {
    done = 0;
    if (neighbours.empty())
        return 0;
    const Piece &last = neighbours.back();
    const abi::DevicePtr start = neighbours.front().address;
    if (api.mem_unmap(start, last.address + last.bytes - start) == abi::kSuccess) {
        done = neighbours.size();
        return 0;
    }
    for (const Piece &piece : neighbours) {
        if (const int error = check(api.mem_unmap(piece.address, piece.bytes), "cuMemUnmap");
            error != 0)
            return error;
        ++done;
    }
    return 0;
}

bool RuntimeImpl::forked() const noexcept {
    return pid_ != ::getpid();
}

int RuntimeImpl::check_process() const {
    if (!forked())
        return 0;
    return fail(ENODEV,
                "process %d is a child of %d, which opened the GPU: CUDA does not survive a fork",
                static_cast<int>(::getpid()), static_cast<int>(pid_));
}

int RuntimeImpl::drain(const char *what) const {
    const abi::Status status = api.stream_synchronize(stream);
    if (status != abi::kSuccess)
        (void)api.ctx_synchronize();
    return check(status, what);
}

CurrentContext::CurrentContext(const RuntimeImpl &runtime) : runtime_(runtime) {
    (void)runtime.api.ctx_get(&before_);
    if (before_ != runtime.context)
        (void)runtime.api.ctx_set(runtime.context);
}

CurrentContext::~CurrentContext() {
    if (before_ != runtime_.context)
        (void)runtime_.api.ctx_set(before_);
}

int Window::open(const std::vector<abi::Handle> &handles, const std::vector<std::size_t> &bytes,
                 int access) {
    std::size_t total = 0;
    for (const std::size_t size : bytes)
        total += size;
    int error =
        runtime_.check(runtime_.api.mem_reserve(&address_, total, 0, 0, 0), "cuMemAddressReserve");
    if (error != 0)
        return error;
    bytes_ = total;
    abi::DevicePtr at = address_;
    for (std::size_t i = 0; i < handles.size() && error == 0; ++i) {
        error = runtime_.check(runtime_.api.mem_map(at, bytes[i], 0, handles[i], 0), "cuMemMap");
        if (error == 0)
            pieces_.push_back({at, bytes[i]});
        at += bytes[i];
    }
    if (error == 0)
        error = runtime_.set_access({address_, bytes_}, access);
    if (error != 0)
        (void)close();
    return error;
}

int Window::close() {
    if (bytes_ == 0)
        return 0;
    std::size_t done = 0;
    int error = runtime_.unmap(pieces_, done);
    if (error == 0)
        error = runtime_.check(runtime_.api.mem_unreserve(address_, bytes_), "cuMemAddressFree");
    pieces_.clear();
    bytes_ = 0;
    return error;
}

Result<Runtime> Runtime::open(const RuntimeOptions &options) {
    Runtime made;
    made.impl_ = std::make_shared<RuntimeImpl>();
    const int error = made.impl_->open(options);
    if (error != 0)
        made.impl_.reset();
    return {std::move(made), error};
}

std::size_t Runtime::granularity() const noexcept {
    return impl_->granularity;
}

bool Runtime::fake() const noexcept {
    return impl_->api.fake();
}

const char *Runtime::hashing() const noexcept {
    return impl_->hasher->name();
}

} // namespace upm::cuda
