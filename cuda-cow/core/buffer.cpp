// SPDX-License-Identifier: MIT
//
// The public face: Buffer, Manifest, and calls by address.
#include "cuda-cow/core/buffer_impl.hpp"
#include "cuda-cow/core/registry.hpp"

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <sstream>

namespace upm::cuda {

Buffer::Buffer() noexcept = default;
Buffer::Buffer(Buffer &&) noexcept = default;
Buffer::Buffer(std::shared_ptr<BufferImpl> impl) noexcept : impl_(std::move(impl)) {}

Buffer &Buffer::operator=(Buffer &&other) noexcept {
    std::swap(impl_, other.impl_);
    return *this;
}

Buffer::~Buffer() {
    if (impl_ != nullptr)
        registry::remove(*impl_);
}

Result<Buffer> Buffer::allocate(const Runtime &runtime, std::size_t bytes,
                                const BufferOptions &options) {
    auto made = std::make_shared<BufferImpl>(runtime.shared(), options.name);
    if (const int error = made->allocate(bytes, options.extent_bytes); error != 0)
        return {Buffer(), error};
    registry::add(made);
    return Buffer(std::move(made));
}

Result<Buffer> Buffer::attach(const Runtime &runtime, const Manifest &manifest,
                              const BufferOptions &options) {
    auto made = std::make_shared<BufferImpl>(runtime.shared(), options.name);
    if (const int error = made->attach(manifest); error != 0)
        return {Buffer(), error};
    registry::add(made);
    return Buffer(std::move(made));
}

Address Buffer::address() const noexcept {
    return impl_ != nullptr ? impl_->address() : 0;
}

std::size_t Buffer::size() const noexcept {
    return impl_ != nullptr ? impl_->bytes() : 0;
}

namespace {

// For calls of a Buffer that holds nothing, or was moved from.
int fail_empty() {
    return fail(EINVAL, "this Buffer has no memory");
}

} // namespace

Result<AdviseCounts> Buffer::advise(std::size_t offset, std::size_t length) {
    AdviseCounts counts;
    const int error = impl_ == nullptr ? fail_empty() : impl_->advise(offset, length, counts);
    return {counts, error};
}

Result<std::uint64_t> Buffer::will_write(std::size_t offset, std::size_t length) {
    std::uint64_t copied = 0;
    const int error = impl_ == nullptr ? fail_empty() : impl_->will_write(offset, length, copied);
    return {copied, error};
}

Result<Address> Buffer::write_ptr(std::size_t offset, std::size_t length) {
    const Result<std::uint64_t> copied = will_write(offset, length);
    return {copied ? address() + offset : 0, copied.error()};
}

Result<Manifest> Buffer::manifest() const {
    Manifest made;
    const int error = impl_ == nullptr ? fail_empty() : impl_->manifest(made);
    return {std::move(made), error};
}

BufferStats Buffer::stats() const {
    return impl_ == nullptr ? BufferStats{} : impl_->stats();
}

Result<std::uint64_t> will_write(Address address, std::size_t length) {
    std::uint64_t total = 0;
    const Address end = length > ~address ? ~Address{0} : address + length;
    // A range may begin anywhere, and end in the next buffer but one.
    while (address < end) {
        const std::shared_ptr<BufferImpl> buffer = registry::find_next(address);
        if (buffer == nullptr || buffer->address() >= end)
            break;
        const std::size_t offset = address > buffer->address() ? address - buffer->address() : 0;
        address = buffer->address() + buffer->mapped_bytes();
        if (offset >= buffer->bytes())
            continue;
        const std::size_t part =
            std::min<std::size_t>(end - buffer->address(), buffer->bytes()) - offset;
        std::uint64_t copied = 0;
        const int error = buffer->will_write(offset, part, copied);
        total += copied;
        if (error != 0)
            return {total, error};
    }
    return total;
}

std::string describe(Address address) {
    const std::shared_ptr<BufferImpl> buffer = registry::find(address);
    return buffer == nullptr ? "" : buffer->describe(address - buffer->address());
}

std::string Manifest::serialize() const {
    char line[96];
    (void)std::snprintf(line, sizeof line, "upm-cuda-manifest 1 %" PRIu64 " %zu\n", bytes,
                        extents.size());
    std::string text = line;
    for (const Extent &extent : extents) {
        (void)std::snprintf(line, sizeof line, "%" PRIu64 " %016" PRIx64 "%016" PRIx64 "\n",
                            extent.bytes, extent.tag.high, extent.tag.low);
        text += line;
    }
    return text;
}

Result<Manifest> Manifest::parse(const std::string &text) {
    std::istringstream in(text);
    std::string magic;
    int version = 0;
    std::size_t count = 0;
    Manifest manifest;
    in >> magic >> version >> manifest.bytes >> count;
    if (!in || magic != "upm-cuda-manifest" || version != 1 || count > (1U << 20))
        return {Manifest{}, EINVAL};
    for (std::size_t i = 0; i < count; ++i) {
        Extent extent;
        std::string digits;
        in >> extent.bytes >> digits;
        if (!in || digits.size() != 32 ||
            digits.find_first_not_of("0123456789abcdef") != std::string::npos)
            return {Manifest{}, EINVAL};
        extent.tag.high = std::stoull(digits.substr(0, 16), nullptr, 16);
        extent.tag.low = std::stoull(digits.substr(16), nullptr, 16);
        manifest.extents.push_back(extent);
    }
    return manifest;
}

} // namespace upm::cuda
