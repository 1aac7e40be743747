// SPDX-License-Identifier: MIT
//
// libupm, C++ interface: tell the system which memory is worth sharing.
//
//     #include <upm/upm.hpp>
//
//     std::vector<float> weights = ...;
//     auto done = upm::advise(weights); // or: address, size in bytes
//     if (!done)
//         std::fprintf(stderr, "not merged: %s\n", std::strerror(done.error()));
//     else
//         std::printf("%llu bytes shared\n", (unsigned long long)done->bytes);
//
// Nothing here throws, prints, or (but for advise_async and Domain::open) takes
// memory from the heap. Every function may be called from any thread, and in the
// child of a fork; none from a signal handler. See upm_advise(3).
#ifndef UPM_UPM_HPP
#define UPM_UPM_HPP

#include <upm/upm.h>

#include <cstddef>
#include <cstdint>
#include <ranges>
#include <span>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>

#if defined(__GNUC__)
#define UPM_API __attribute__((visibility("default")))
#else
#define UPM_API
#endif

namespace upm {

// A value or an errno. On failure the value is still there: what was done until
// then (Counts), or an empty object (Domain, Async).
template <class T>
class [[nodiscard]] Result {
  public:
    // NOLINTNEXTLINE(google-explicit-constructor): `return counts;` is the use
    constexpr Result(T value, int error = 0) noexcept : value_(std::move(value)), error_(error) {}

    [[nodiscard]] constexpr bool ok() const noexcept { return error_ == 0; }
    constexpr explicit operator bool() const noexcept { return ok(); }

    // Positive errno, 0 on success.
    [[nodiscard]] constexpr int error() const noexcept { return error_; }
    [[nodiscard]] std::error_code code() const noexcept {
        return {error_, std::generic_category()};
    }

    [[nodiscard]] constexpr const T &value() const &noexcept { return value_; }
    [[nodiscard]] constexpr T &value() &noexcept { return value_; }
    [[nodiscard]] constexpr T &&value() &&noexcept { return std::move(value_); }
    constexpr const T *operator->() const noexcept { return &value_; }
    constexpr T *operator->() noexcept { return &value_; }
    constexpr const T &operator*() const &noexcept { return value_; }
    constexpr T &operator*() &noexcept { return value_; }
    constexpr T &&operator*() &&noexcept { return std::move(value_); }

  private:
    T value_;
    int error_;
};

// upm_counts, zeroed, with the sums that every user wants.
struct Counts : ::upm_counts {
    constexpr Counts() noexcept : ::upm_counts() {}

    [[nodiscard]] constexpr std::uint64_t skipped_pages() const noexcept {
        std::uint64_t sum = 0;
        for (const std::uint64_t count : skipped)
            sum += count;
        return sum;
    }

    constexpr Counts &operator+=(const ::upm_counts &other) noexcept {
        pages += other.pages;
        merged += other.merged;
        inserted += other.inserted;
        zero += other.zero;
        already += other.already;
        queued += other.queued;
        unmerged += other.unmerged;
        kept += other.kept;
        for (std::size_t i = 0; i < UPM_SKIPPED_NR; ++i)
            skipped[i] += other.skipped[i];
        bytes += other.bytes;
        nanoseconds += other.nanoseconds;
        return *this;
    }
};

// A named domain: pages merge only with pages of the same domain. Closes its
// descriptor when destroyed; what was merged in it stays merged.
class UPM_API Domain {
  public:
    constexpr Domain() noexcept = default;
    Domain(Domain &&other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    Domain &operator=(Domain &&other) noexcept {
        std::swap(fd_, other.fd_);
        return *this;
    }
    Domain(const Domain &) = delete;
    Domain &operator=(const Domain &) = delete;
    ~Domain();

    // Joins the domain of a 16-byte key, and makes it if it is new. Errors:
    // EOPNOTSUPP (backend without domains), EMFILE, ENFILE, ENOMEM, ENOSPC.
    [[nodiscard]] static Result<Domain> open(std::span<const std::byte, 16> key) noexcept;

    // Takes over a descriptor, as passed by another process over a Unix socket.
    [[nodiscard]] static Domain from_fd(int fd) noexcept { return Domain(fd); }

    [[nodiscard]] int fd() const noexcept { return fd_; }
    // Gives the descriptor up to the caller.
    [[nodiscard]] int release() noexcept { return std::exchange(fd_, -1); }
    explicit operator bool() const noexcept { return fd_ >= 0; }

  private:
    explicit Domain(int fd) noexcept : fd_(fd) {}
    int fd_ = -1;
};

struct Options {
    // Change nothing, predict the counts.
    bool dry_run = false;
    // Work on this process (0: the caller); needs CAP_SYS_PTRACE over it. The
    // addresses are those of that process.
    int pid = 0;
    // nullptr: the library's default (upm_domain_use, UPM_DOMAIN, or the user's).
    // Must stay open until the call, or the asynchronous work, has ended.
    const Domain *domain = nullptr;
    // The caller vouches that nobody writes to the range meanwhile: UPM_QUIESCENT.
    bool quiescent = false;
};

// What may stand for an address and a length: contiguous elements whose bytes are all that
// there is to them, such as a span, a vector or an array of numbers. A container that ends
// with the expression is none.
template <class R>
concept Memory = std::ranges::contiguous_range<R> && std::ranges::sized_range<R> &&
    std::ranges::borrowed_range<R> && std::is_trivially_copyable_v<std::ranges::range_value_t<R>>;

// The same, to write to.
template <class R>
concept WritableMemory =
    Memory<R> && !std::is_const_v<std::remove_reference_t<std::ranges::range_reference_t<R>>>;

namespace detail {

// Merging changes no byte, so that a range of constants may be merged as well.
template <class R>
void *begin_of(R &range) noexcept {
    return const_cast<void *>(static_cast<const void *>(std::ranges::data(range)));
}

template <class R>
std::size_t bytes_of(R &range) noexcept {
    return static_cast<std::size_t>(std::ranges::size(range)) *
           sizeof(std::ranges::range_value_t<R>);
}

} // namespace detail

// Merges the whole pages inside [addr, addr + len). Idempotent; the bytes stay,
// and a write gives the writer its own copy. Errors: EINVAL (overflow), ENOMEM (a
// hole in the range), EOPNOTSUPP (no backend, or switched off), EINTR, EBADF
// (domain), and for another process EPERM and ESRCH.
UPM_API Result<Counts> advise(void *addr, std::size_t len, const Options &options = {}) noexcept;

// The same for all bytes of `range`.
template <Memory R>
Result<Counts> advise(R &&range, const Options &options = {}) noexcept {
    return advise(detail::begin_of(range), detail::bytes_of(range), options);
}

// Gives merged pages private copies again. options.dry_run must be false.
UPM_API Result<Counts> unmerge(void *addr, std::size_t len, const Options &options = {}) noexcept;

template <Memory R>
Result<Counts> unmerge(R &&range, const Options &options = {}) noexcept {
    return unmerge(detail::begin_of(range), detail::bytes_of(range), options);
}

// What became of the bytes of a load: shared + made + copied = bytes.
struct Loaded : ::upm_load_counts {
    constexpr Loaded() noexcept : ::upm_load_counts() {}
};

struct LoadOptions {
    // nullptr: the library's default, as for advise.
    const Domain *domain = nullptr;
    // The destination is one ordinary mapping: UPM_LOAD_ORDINARY.
    bool ordinary = false;
    // Nobody waits for it: UPM_LOAD_PATIENT.
    bool patient = false;
};

// Reads `into.size()` bytes of a file from `offset` on (bytes), as pread(2) does, or as
// many as there are. Whole pages of `into` that do not exist yet come to share those of
// other processes that loaded the same bytes; all else is a plain copy. On an error
// behind the first byte the result is what was read until then, without an error.
// Errors: EINVAL (overflow), EBADF (file or domain), and those of pread(2).
UPM_API Result<Loaded> load(int fd, std::uint64_t offset, std::span<std::byte> into,
                            const LoadOptions &options = {}) noexcept;

// The same into all bytes of elements, of which the last may be read in part.
template <WritableMemory R>
Result<Loaded> load(int fd, std::uint64_t offset, R &&into,
                    const LoadOptions &options = {}) noexcept {
    return load(fd, offset,
                std::span<std::byte>(static_cast<std::byte *>(detail::begin_of(into)),
                                     detail::bytes_of(into)),
                options);
}

// Advise that runs on the library's worker thread. The range must stay mapped
// until it is done; the destructor waits for that.
class UPM_API Async {
  public:
    constexpr Async() noexcept = default;
    Async(Async &&other) noexcept
        : job_(std::exchange(other.job_, nullptr)), fd_(std::exchange(other.fd_, -1)) {}
    Async &operator=(Async &&other) noexcept {
        std::swap(job_, other.job_);
        std::swap(fd_, other.fd_);
        return *this;
    }
    Async(const Async &) = delete;
    Async &operator=(const Async &) = delete;
    ~Async();

    // What advise would have returned; ECANCELED in the child of a fork for what
    // the parent had started; EINVAL for an empty handle. May be called again.
    Result<Counts> wait() noexcept;
    [[nodiscard]] bool done() const noexcept;
    // An eventfd for poll(2), readable when done; -1 for an empty handle. Do not
    // read or close it.
    [[nodiscard]] int fd() const noexcept { return fd_; }
    explicit operator bool() const noexcept { return job_ != nullptr; }

  private:
    friend UPM_API Result<Async> advise_async(void *, std::size_t, const Options &) noexcept;
    void *job_ = nullptr;
    int fd_ = -1;
};

// Errors of the call itself: EINVAL, EOPNOTSUPP, EMFILE, ENFILE, ENOMEM, EAGAIN
// (no thread). The rest is told by wait().
UPM_API Result<Async> advise_async(void *addr, std::size_t len,
                                   const Options &options = {}) noexcept;

template <Memory R>
Result<Async> advise_async(R &&range, const Options &options = {}) noexcept {
    return advise_async(detail::begin_of(range), detail::bytes_of(range), options);
}

// The C structures, under names that no function hides.
using Info = struct ::upm_info;
using Stats = struct ::upm_stats;

// Which backend is active, and why.
UPM_API Info info() noexcept;

// Totals of the default domain (kmod, store) or of the machine (ksm).
UPM_API Result<Stats> stats() noexcept;
UPM_API Result<Stats> stats(const Domain &domain) noexcept;

// What the service behind the active backend (upmd of the backend store) reports:
// lines of Prometheus' text format, without a terminating zero. The length, cut to
// that of `text`. Errors: EOPNOTSUPP (a backend without a service), ECONNREFUSED and
// the like (the service is gone).
UPM_API Result<std::size_t> describe_service(std::span<char> text) noexcept;

// From now on the library starts no service in this process, as it does where upmd does
// not run yet: for tools that only look. Pre: the library was not called before.
UPM_API void start_no_service() noexcept;

// Seeds: content that the service behind the backend (upmd of the backend store) keeps
// though nobody maps it, so that the first program shares it as well; see upm(1). A seed
// is of this user and of the default domain. It keeps what its clients load, as long as its
// budget and the user's share last.
struct SeedOptions {
    std::uint64_t budget = 0;   // bytes; 0: as many as the user may have kept
    std::uint32_t expire_s = 0; // seconds after its last use; 0: never
    std::string_view label;     // for people; 63 bytes of it count
};
struct Seed {
    std::uint64_t number = 0;
    // What this is in the environment as UPM_SEED makes a process, and its children,
    // clients of it. 32 hex digits and a zero.
    char token[33] = {};
    std::uint64_t room = 0; // bytes that the user may still have kept
};
// Begins one, until end_seed() or the end of this process: then it takes nothing more, and
// keeps what it has. What this process loads from now on is kept as well. No other thread may
// use the library meanwhile. Errors: EOPNOTSUPP (the backend, or its service, has none), EPERM
// (the service allows none), EDQUOT (the user has too many, or too much in them).
UPM_API Result<Seed> begin_seed(const SeedOptions &options) noexcept;

// Sizes are in bytes.
struct SeedState {
    std::uint64_t number;
    std::uint64_t kept;
    std::uint64_t used; // of that, in segments that some process uses
    std::uint64_t budget;
    std::uint64_t missed; // that there was no room for
    std::uint32_t segments;
    std::uint32_t user;
    std::uint32_t expire_s;
    bool open;       // it still takes what its clients load
    char label[64];  // empty for other users
    char domain[64]; // its name for people
};
// Ends a seed, and tells what it keeps. Errors: ENOENT, EPERM (of another user).
UPM_API Result<SeedState> end_seed(std::uint64_t number) noexcept;

struct SeedsDropped {
    std::uint64_t bytes = 0; // that are kept no more
    std::uint64_t seeds = 0;
};
// Lets go of what a seed keeps; number 0: of all seeds of this user in this domain. What some
// process maps stays as long as it does. Errors: those of end_seed().
UPM_API Result<SeedsDropped> drop_seed(std::uint64_t number) noexcept;

struct SeedList {
    std::size_t count = 0;      // of entries that were filled in
    std::size_t more = 0;       // that are not told of
    std::uint64_t room = 0;     // bytes that the user may still have kept
    std::uint64_t uptime_s = 0; // of the service: seeds end with it
};
// The seeds that this process may know of: of its user and domain, all for root.
UPM_API Result<SeedList> list_seeds(std::span<SeedState> list) noexcept;

// One row for each backend that the library knows, in order of preference: for
// diagnosis; advise uses the active one.
struct BackendStatus {
    const char *name; // static
    bool available;   // would work in this process, now
    bool active;      // is the one that info() names
    char reason[256]; // one line: what it found, or what is missing and the cure
};

// Looks at backend number `index` anew. Errors: EINVAL beyond the last row.
UPM_API Result<BackendStatus> backend_status(std::size_t index) noexcept;

// "busy" and so on; empty for an unused slot.
inline std::string_view skip_name(unsigned reason) noexcept {
    const char *name = ::upm_skip_name(reason);
    return name != nullptr ? std::string_view(name) : std::string_view();
}

} // namespace upm

#endif // UPM_UPM_HPP
