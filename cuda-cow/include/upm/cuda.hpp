// SPDX-License-Identifier: MIT
//
// libupm-cuda: GPU buffers that processes share until one writes.
//
//     #include <upm/cuda.hpp>
//
//     auto gpu = upm::cuda::Runtime::open();
//     auto weights = upm::cuda::Buffer::allocate(*gpu, bytes);
//     ... load the weights to weights->address() ...
//     auto done = weights->advise();               // equal extents are now one
//     auto p = weights->write_ptr(offset, length); // a private copy, same address
//
// Errors are errno values in upm::Result; last_error() has the text. After advise
// memory is read-only for the GPU: a kernel that writes without will_write() loses
// its context (CUDA error 700), a copy or memset is refused (1), and the bytes of others stay.
//
// A Runtime and its Buffers may be used from any thread. CUDA does not survive a
// fork, nor does this. Nothing throws but std::bad_alloc.
#ifndef UPM_CUDA_HPP
#define UPM_CUDA_HPP

#include <upm/upm.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace upm::cuda {

// A device address, as CUdeviceptr.
using Address = unsigned long long;

// What the last failed call of this thread had to say, in one line; "" if none.
UPM_API const char *last_error() noexcept;

struct RuntimeOptions {
    std::string driver;                 // library to load; "": UPM_CUDA_DRIVER, else libcuda.so.1
    int device = 0;                     // ordinal
    std::string socket;                 // of upm-cudad; "": UPM_CUDA_SOCKET, else the default
    std::array<std::byte, 16> domain{}; // key; all zero: UPM_DOMAIN, else the user's own domain
    unsigned timeout_ms = 5000;         // for an answer of the broker
};

class RuntimeImpl;
class BufferImpl;

// The driver, one device's primary context, and the connection to the broker,
// which is made when first needed and again after it was lost.
class UPM_API Runtime {
  public:
    // Errors: ENOENT (no driver), ENOSYS (driver too old), ENODEV (no such device),
    // EOPNOTSUPP (the device cannot map or export memory).
    [[nodiscard]] static Result<Runtime> open(const RuntimeOptions &options = {});

    [[nodiscard]] std::size_t granularity() const noexcept; // bytes
    [[nodiscard]] bool fake() const noexcept;               // the driver is the one for tests
    // "gpu", or "host": without kernels for this device the bytes are hashed and
    // compared here, after copying them, which is slow.
    [[nodiscard]] const char *hashing() const noexcept;
    [[nodiscard]] const std::shared_ptr<RuntimeImpl> &shared() const noexcept { return impl_; }

  private:
    std::shared_ptr<RuntimeImpl> impl_;
};

// A 128-bit keyed hash of an extent's content.
struct Tag {
    std::uint64_t low = 0;
    std::uint64_t high = 0;
    friend bool operator==(const Tag &, const Tag &) = default;
    friend auto operator<=>(const Tag &, const Tag &) = default;
};

// Enough to attach a buffer in another process, as long as the same broker runs:
// tags are keyed with a secret of the broker and the domain.
struct Manifest {
    struct Extent {
        std::uint64_t bytes = 0;
        Tag tag;
    };
    std::uint64_t bytes = 0; // of the buffer
    std::vector<Extent> extents;

    // Text, one line for each extent, and back. Error: EINVAL.
    [[nodiscard]] UPM_API std::string serialize() const;
    [[nodiscard]] static UPM_API Result<Manifest> parse(const std::string &text);
};

struct BufferOptions {
    // Unit of sharing and of copying: a multiple of the granularity. Small for what
    // is written often, large (16 to 64 MiB) for weights; 0: 16 MiB.
    std::size_t extent_bytes = 0;
    std::string name = "buffer"; // in messages
};

// What advise did with each extent of the range.
struct AdviseCounts {
    std::uint64_t extents = 0;   // looked at; the sum of the rest
    std::uint64_t merged = 0;    // now map an extent that was known
    std::uint64_t published = 0; // were new, and are now known
    std::uint64_t already = 0;   // were shared before
    std::uint64_t refused = 0;   // by a limit, for lack of descriptors, or written meanwhile
    std::uint64_t different = 0; // equal tags, other bytes; known content, written meanwhile
    std::uint64_t bytes = 0;     // shared now, among those looked at
};

struct BufferStats {
    std::uint64_t extents = 0;
    std::uint64_t shared = 0; // extents that map shared memory now
    std::uint64_t private_bytes = 0;
    std::uint64_t shared_bytes = 0;
    std::uint64_t copies = 0; // extents copied by will_write, since the start
    std::uint64_t copied_bytes = 0;
    std::uint64_t rolled_back = 0; // remappings undone after a failure
};

// Device memory at a fixed address, in extents that are private and writable or
// shared and read-only.
class UPM_API Buffer {
  public:
    Buffer() noexcept;
    Buffer(Buffer &&) noexcept;
    Buffer &operator=(Buffer &&) noexcept;
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;
    // Waits for the device: a kernel may still be reading.
    ~Buffer();

    // Private memory, cleared. Errors: EINVAL (0 bytes, bad extent size), ENOMEM (also for
    // more than the device has).
    [[nodiscard]] static Result<Buffer> allocate(const Runtime &runtime, std::size_t bytes,
                                                 const BufferOptions &options = {});

    // A buffer that shares every extent of the manifest, with nothing loaded.
    // Errors: ENOENT (the broker does not know an extent: load it and advise),
    // EINVAL (manifest), ECONNREFUSED, EACCES (another user's broker), ENOMEM, EMFILE.
    [[nodiscard]] static Result<Buffer> attach(const Runtime &runtime, const Manifest &manifest,
                                               const BufferOptions &options = {});

    [[nodiscard]] Address address() const noexcept;
    [[nodiscard]] std::size_t size() const noexcept; // bytes asked for
    explicit operator bool() const noexcept { return impl_ != nullptr; }

    // Shares the whole extents inside [offset, offset + length); the last extent
    // counts as whole if the range reaches the buffer's end. Waits for the device.
    // Nobody may write the range meanwhile, unless the hook sees the launch: a kernel that
    // does may lose its context, but no write is lost silently. A will_write() is no such
    // write: it does not wait for the broker, and what it made writable stays private.
    // On an error what was done until then is in the counts and everything else is
    // private as before. Errors: EINVAL, ECONNREFUSED (no broker), EPIPE (lost it),
    // EACCES (the broker is neither this user's nor root's), EPROTONOSUPPORT (it is of
    // another version), ETIMEDOUT, ENOMEM, EFAULT (the context is lost).
    Result<AdviseCounts> advise(std::size_t offset = 0, std::size_t length = SIZE_MAX);

    // Makes every extent that the range touches private and writable, at the same
    // address. Waits for the device if there is anything to copy. All or nothing
    // for each batch of extents; on an error every extent still reads as before.
    // Returns the bytes that were copied. Errors: EINVAL, ENOMEM, EFAULT.
    Result<std::uint64_t> will_write(std::size_t offset, std::size_t length);

    // The address of `offset`, after will_write(offset, length).
    Result<Address> write_ptr(std::size_t offset, std::size_t length);

    // Error: EAGAIN (not every extent is shared).
    [[nodiscard]] Result<Manifest> manifest() const;
    [[nodiscard]] BufferStats stats() const;

  private:
    explicit Buffer(std::shared_ptr<BufferImpl> impl) noexcept;
    std::shared_ptr<BufferImpl> impl_;
};

// Makes writable what the range [address, address + length) covers of any buffer of
// this process. For hooks and allocators. Returns the bytes that were copied.
UPM_API Result<std::uint64_t> will_write(Address address, std::size_t length);

// The buffer that holds `address`, as "NAME+OFFSET (SHARED|private)"; "" if none.
UPM_API std::string describe(Address address);

} // namespace upm::cuda

#endif // UPM_CUDA_HPP
