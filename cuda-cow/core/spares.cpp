// SPDX-License-Identifier: MIT
#include "cuda-cow/core/spares.hpp"

namespace upm::cuda {

Spares::~Spares() {
    (void)give_up();
    if (places_.size() == kCount)
        (void)runtime_.api.mem_unreserve(address_, kCount * runtime_.granularity);
}

// Not by way of RuntimeImpl::create, which would free spares to make one. Pre: the lock is
// held, for this one and the next; there is a place.
bool Spares::make(Spare &spare) {
    const DriverApi &api = runtime_.api;
    const std::size_t bytes = runtime_.granularity;
    const abi::MemAllocationProp prop = runtime_.properties();
    if (api.mem_create(&spare.handle, bytes, &prop, 0) != abi::kSuccess)
        return false;
    spare.at = places_.back();
    if (api.mem_map(spare.at, bytes, 0, spare.handle, 0) == abi::kSuccess) {
        places_.pop_back();
        if (runtime_.set_access({spare.at, bytes}, abi::kAccessReadWrite) == 0)
            return true;
        unmap(spare);
    }
    (void)api.mem_release(spare.handle);
    return false;
}

// A place where something is still mapped is not used again.
void Spares::unmap(const Spare &spare) {
    if (runtime_.api.mem_unmap(spare.at, runtime_.granularity) == abi::kSuccess)
        places_.push_back(spare.at);
}

void Spares::fill() {
    const std::lock_guard<std::mutex> guard(lock_);
    const std::size_t bytes = runtime_.granularity;
    if (address_ == 0) {
        if (runtime_.api.mem_reserve(&address_, kCount * bytes, 0, 0, 0) != abi::kSuccess)
            return;
        for (std::size_t i = 0; i < kCount; ++i)
            places_.push_back(address_ + i * bytes);
    }
    Spare made;
    while (!places_.empty() && make(made))
        ready_.push_back(made);
}

std::vector<Spares::Spare> Spares::take(std::size_t count) {
    const std::lock_guard<std::mutex> guard(lock_);
    if (ready_.size() < count)
        return {};
    const auto first = ready_.end() - static_cast<std::ptrdiff_t>(count);
    std::vector<Spare> taken(first, ready_.end());
    ready_.erase(first, ready_.end());
    return taken;
}

void Spares::used(const Spare &spare) {
    const std::lock_guard<std::mutex> guard(lock_);
    unmap(spare);
}

void Spares::unused(const Spare &spare) {
    const std::lock_guard<std::mutex> guard(lock_);
    ready_.push_back(spare);
}

bool Spares::give_up() {
    const std::lock_guard<std::mutex> guard(lock_);
    const bool any = !ready_.empty();
    for (const Spare &spare : ready_) {
        unmap(spare);
        (void)runtime_.api.mem_release(spare.handle);
    }
    ready_.clear();
    return any;
}

} // namespace upm::cuda
