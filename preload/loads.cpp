// SPDX-License-Identifier: MIT
#include "preload/loads.hpp"

#include "libupm/api/library.hpp"
#include "libupm/base/plain_read.hpp"
#include "libupm/base/sharable_file.hpp"
#include "preload/blocks.hpp"
#include "preload/changes.hpp"
#include "preload/copying.hpp"
#include "preload/late.hpp"
#include "preload/local.hpp"
#include "preload/page.hpp"
#include "preload/pass.hpp"
#include "preload/real.hpp"
#include "preload/sandbox.hpp"
#include "preload/short_lived.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <fcntl.h>
#include <optional>
#include <string_view>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

namespace upm::hook {

namespace detail {

constinit std::atomic<std::size_t> load_threshold{SIZE_MAX};

bool may_load_now() noexcept {
    return !Guard::active() && ready();
}

} // namespace detail

namespace {

using detail::load_threshold;

// Below this, a plain read is as fast: bytes.
constexpr std::size_t kLeast = 256UL << 10U;
// No read(2) gives more: MAX_RW_COUNT of the kernel.
constexpr std::size_t kMost = 0x7ffff000;
// How long the program's first reads wait, in all, for the thread that looks for a backend:
// a millisecond for each megabyte that is read, and this at most. A look at a broker that
// runs takes less than one.
constexpr std::uint64_t kMostPatienceNs = 15'000'000;
constexpr std::size_t kBytesPerMs = 1UL << 20U;

enum Known : std::uint32_t { kNotYet, kShared, kNotShared, kAwaited };

constinit std::atomic<std::size_t> wished{SIZE_MAX}; // the threshold while loads are shared
constinit std::atomic<std::uint32_t> known{kNotYet};
constinit std::atomic<std::uint64_t> patience_ns{kMostPatienceNs};
// The process whose connections these are: a child that shares the memory (vfork) stays out.
constinit std::atomic<pid_t> home{0};
constinit std::atomic<std::uint64_t> shared{0}; // bytes
constinit std::atomic<std::uint64_t> made{0};
constinit std::atomic<std::uint32_t> under_way{0};

std::size_t offset_in(const Block &block, const void *buffer) noexcept {
    return static_cast<std::size_t>(static_cast<const char *>(buffer) - block.addr.load());
}

// The own block that holds all of this memory, and to which nothing special was done.
Block *own_block_of(const iovec &part) noexcept {
    if (part.iov_len < kLeast || ::getpid() != home.load())
        return nullptr;
    Block *const block = block_map().before(part.iov_base);
    if (block == nullptr || !block->own || block->state.load() != State::kLive ||
        block->hands_off || block->unloadable)
        return nullptr;
    const char *const start = block->addr;
    const auto *const at = static_cast<const char *>(part.iov_base);
    const auto offset = static_cast<std::size_t>(at - start);
    return at >= start && offset < block->len && part.iov_len <= block->len - offset ? block
                                                                                     : nullptr;
}

// The same where no read has filled it yet.
Block *block_of(const iovec &part) noexcept {
    Block *const block = own_block_of(part);
    return block != nullptr && !block->filled.holds(offset_in(*block, part.iov_base), part.iov_len)
               ? block
               : nullptr;
}

// How much of a file that can be shared comes behind this offset, in bytes. Everything else
// is left to the kernel: its errors, its short reads, and how long it takes.
std::uint64_t rest_of(int fd, off_t offset) noexcept {
    const std::uint64_t size = offset >= 0 && kernel_answers(fd) ? sharable_size(fd) : 0;
    return size - std::min<std::uint64_t>(size, static_cast<std::uint64_t>(offset));
}

// A handler that leaves a read by a jump would leave what the hook holds with it. The kernel
// runs none either while it reads a regular file. But what ends the process ends it at once,
// there and here: a disk may be slow.
class NoSignals {
  public:
    NoSignals() noexcept {
        sigset_t handled;
        (void)::sigfillset(&handled);
        for (const int number : {SIGHUP, SIGINT, SIGQUIT, SIGALRM, SIGTERM, SIGUSR1, SIGUSR2,
                                 SIGXCPU, SIGVTALRM, SIGPROF}) {
            struct sigaction now {};
            if (::sigaction(number, nullptr, &now) == 0 && now.sa_handler == SIG_DFL)
                (void)::sigdelset(&handled, number);
        }
        (void)::pthread_sigmask(SIG_BLOCK, &handled, &before_);
    }
    NoSignals(const NoSignals &) = delete;
    NoSignals &operator=(const NoSignals &) = delete;
    ~NoSignals() { (void)::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

  private:
    sigset_t before_{};
};

// Inside while segments are mapped over the block; see changes.hpp. The adviser's piece, if
// it lies there, ends. Nothing is mapped any more once another thread has done something
// special to the block.
class LoadGate final : public Gate {
  public:
    LoadGate(Block &block, const iovec &part) noexcept
        : block_(block), number_(block.number), buffer_(part.iov_base), len_(part.iov_len) {}

    bool enter() noexcept override {
        change_.emplace();
        if (block_.number != number_ || block_.hands_off || block_.unloadable) {
            change_.reset();
            return false;
        }
        Change::end_piece(buffer_, len_);
        block_.advised = true; // before anything is mapped there: free() asks for it
        return true;
    }
    bool leave() noexcept override {
        const bool inside = change_.has_value();
        change_.reset();
        return inside;
    }
    bool breathe() noexcept override { return true; }
    [[nodiscard]] bool over() const noexcept override { return all_pieces_ended(); }

  private:
    Block &block_;
    std::uint64_t number_;
    const void *buffer_;
    std::size_t len_;
    std::optional<Change> change_;
};

// Returns true if loads are shared, or if that may come to be known.
bool may_be_shared() noexcept {
    const std::uint32_t now = known.load();
    return now == kShared || now == kAwaited || (now == kNotYet && local().thread_runs.load());
}

// Takes as much of the patience as there is, of what is wished: threads that read at one time
// share it.
std::uint64_t take_patience(std::uint64_t wished_ns) noexcept {
    std::uint64_t left = patience_ns.load();
    std::uint64_t taken = std::min(left, wished_ns);
    while (!patience_ns.compare_exchange_weak(left, left - taken))
        taken = std::min(left, wished_ns);
    return taken;
}

// Waits for the thread, if it is about to find out. Returns true if loads are shared.
bool are_shared(std::size_t len) noexcept {
    if (known.load() == kNotYet) {
        const std::uint64_t most = take_patience(std::uint64_t{len / kBytesPerMs} * 1'000'000U);
        if (most != 0) {
            const std::uint64_t start = now_ns();
            futex_wait(known, kNotYet, most);
            patience_ns.fetch_add(most - std::min(most, now_ns() - start));
        }
    }
    return known.load() == kShared;
}

// `renew`: freed, it is unmapped, so that the next load finds memory that does not exist yet. What
// the program gets again of what it has freed exists, so that goes at the end of a stream.
void note_loaded(Block &block, const void *at, std::size_t len, std::uint64_t by_others,
                 bool renew) noexcept {
    if (renew)
        block.renewed = true;
    block.filled.add(offset_in(block, at), len);
    if (by_others * 2 >= len)
        short_lived.shares();
    if (short_lived.loads(block.life, len))
        (void)drop_cache();
}

std::int64_t load(Block &block, int fd, off_t offset, const iovec &part) noexcept {
    LoadGate gate(block, part);
    LateNotes late(block, fd, offset, part.iov_base);
    upm_load_counts counts{};
    const UnderWay guard;
    const std::int64_t got = engine().load({.fd = fd,
                                            .offset = offset,
                                            .into = part.iov_base,
                                            .len = part.iov_len,
                                            .flags = UPM_LOAD_ORDINARY,
                                            .gate = &gate,
                                            .late = &late},
                                           counts);
    shared += counts.shared;
    made += counts.made;
    if (got > 0)
        note_loaded(block, part.iov_base, static_cast<std::size_t>(got), counts.shared,
                    !late.was_skipped() && !late.all_existed());
    return got;
}

// Returns true if a part of the vector can be shared.
bool any_block(const iovec *vector, int count) noexcept {
    return std::any_of(vector, vector + count,
                       [](const iovec &part) { return block_of(part) != nullptr; });
}

// A program that may have few descriptors has none to spare, not even for a moment.
bool descriptors_to_spare() noexcept {
    constexpr rlim_t kFew = 128;
    rlimit limit{};
    return ::getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur > kFew;
}

bool worthwhile(const iovec *vector, int count) noexcept {
    return may_be_shared() && any_block(vector, count) && descriptors_to_spare();
}

std::size_t sum_of(const iovec *vector, int count) noexcept {
    std::size_t sum = 0;
    for (int i = 0; i < count; ++i)
        sum += std::min(vector[i].iov_len, kMost - sum);
    return sum;
}

// Returns false for what the kernel refuses as a whole.
bool acceptable(const iovec *vector, int count) noexcept {
    constexpr std::size_t kTop = PTRDIFF_MAX; // addresses of programs, and sums, are below
    std::size_t sum = 0;
    for (int i = 0; i < count; ++i) {
        const auto at = reinterpret_cast<std::uintptr_t>(vector[i].iov_base);
        const std::size_t len = vector[i].iov_len;
        if (len > kTop - sum || at > kTop || len > kTop - at)
            return false;
        sum += len;
    }
    return true;
}

// `most` bytes into one part after the other. Returns the bytes, or -errno if that is none.
std::int64_t load_parts(int fd, off_t offset, const iovec *vector, int count,
                        std::size_t most) noexcept {
    const Guard guard;
    const EntryGuard entry;
    std::size_t done = 0;
    for (int i = 0; i < count && done < most; ++i) {
        const iovec part{.iov_base = vector[i].iov_base,
                         .iov_len = std::min(vector[i].iov_len, most - done)};
        Block *const block = block_of(part);
        const off_t at = offset + static_cast<off_t>(done);
        const std::int64_t got =
            block != nullptr ? load(*block, fd, at, part)
                             : plain_read(fd, static_cast<std::uint64_t>(at),
                                          static_cast<std::byte *>(part.iov_base), part.iov_len);
        if (got < 0 && done == 0)
            return got;
        done += static_cast<std::size_t>(std::max<std::int64_t>(got, 0));
        if (got < static_cast<std::int64_t>(part.iov_len))
            break;
    }
    return static_cast<std::int64_t>(done);
}

// Calls visit(block, part, done) for each part of the first `most` bytes of a vector that lies in
// a block which no read has filled there; `done`: bytes before it.
template <class Visit>
void for_each_part(const iovec *vector, int count, std::size_t most, Visit visit) noexcept {
    std::size_t done = 0;
    for (int i = 0; i < count && done < most; ++i) {
        const iovec part{.iov_base = vector[i].iov_base,
                         .iov_len = std::min(vector[i].iov_len, most - done)};
        if (Block *const block = block_of(part))
            visit(*block, part, done);
        done += part.iov_len;
    }
}

// The real function is about to read it: nothing is shared yet. Where that reads less, or
// something else by then, no page is found equal later.
void note_all_late(int fd, off_t offset, const iovec *vector, int count,
                   std::size_t most) noexcept {
    const Guard guard;
    const NoSignals signals;
    for_each_part(vector, count, most, [&](Block &block, const iovec &part, std::size_t done) {
        note_late(block, fd, offset + static_cast<off_t>(done), part.iov_base, part.iov_len, false);
    });
}

// The real function is about to read it, since it is a part of a stream. Where that reads less, a
// later read there is plain, too.
void note_all_passing(const iovec *vector, int count, std::size_t most) noexcept {
    const Guard guard;
    for_each_part(vector, count, most, [](Block &block, const iovec &part, std::size_t /*done*/) {
        note_loaded(block, part.iov_base, part.iov_len, 0, true);
    });
}

// The first part of a vector that a block holds; nullptr: there is none.
const iovec *first_own(const iovec *vector, int count) noexcept {
    const auto *const end = vector + count;
    const auto *const first =
        std::find_if(vector, end, [](const iovec &part) { return own_block_of(part) != nullptr; });
    return first != end ? first : nullptr;
}

// Returns true if it is time to ask what others share of a stream, of which that is the next part.
bool stream_asks(const iovec *vector, int count, std::size_t len) noexcept {
    return short_lived.is_stream() && known.load() == kShared && short_lived.asks(len) &&
           first_own(vector, count) != nullptr && descriptors_to_spare();
}

// Returns true if others share what is read there, or have asked for it.
bool others_want(int fd, off_t offset, const iovec *vector, int count) noexcept {
    const Guard guard;
    const EntryGuard entry;
    const NoSignals signals;
    const iovec *const first = first_own(vector, count);
    if (first == nullptr)
        return false;
    for (const iovec *part = vector; part != first; ++part)
        offset += static_cast<off_t>(part->iov_len);
    const UnderWay talk;
    return engine().wanted({.fd = fd,
                            .offset = offset,
                            .into = first->iov_base,
                            .len = first->iov_len,
                            .flags = UPM_LOAD_ORDINARY});
}

// Returns true if so many bytes can be read so that they share, now. `asks`: see stream_asks().
bool serves(int fd, off_t offset, const iovec *vector, int count, std::uint64_t len,
            bool asks) noexcept {
    if (len < kLeast)
        return false;
    if (!are_shared(len)) {
        if (may_be_shared())
            note_all_late(fd, offset, vector, count, len);
        return false;
    }
    if (asks && others_want(fd, offset, vector, count)) {
        short_lived.end();
        (void)drop_cache();
    }
    if (!short_lived.is_part(len))
        return any_block(vector, count);
    note_all_passing(vector, count, len);
    return false;
}

} // namespace

UnderWay::UnderWay() noexcept {
    ++under_way;
}

UnderWay::~UnderWay() {
    --under_way;
}

void fill_load_report(upm_hook_stats &report) noexcept {
    report.loaded_shared = shared.load();
    report.loaded_made = made.load();
}

void expect_loads(std::size_t least) noexcept {
    home = ::getpid();
    wished = std::max(least, kLeast);
    load_threshold = wished.load();
}

void set_loads(bool now_shared, bool awaited) noexcept {
    if (wished.load() == SIZE_MAX)
        return;
    home = ::getpid();
    load_threshold = now_shared || awaited ? wished.load() : SIZE_MAX;
    known = now_shared ? kShared : awaited ? kAwaited : kNotShared;
    futex_wake_all(known);
}

void end_loads() noexcept {
    wished = SIZE_MAX;
    load_threshold = SIZE_MAX;
    known = kNotShared;
}

// The kernel looks at a set of signals before it looks at what is to be done with it, which is
// nothing that exists.
bool may_load_vector(const iovec *vector, int count) noexcept {
    constexpr int kMostParts = 1024; // IOV_MAX
    constexpr long kNothing = -1;
    constexpr std::size_t kSet = 8; // bytes
    if (count <= 0 || count > kMostParts)
        return false;
    const auto start = reinterpret_cast<std::uintptr_t>(vector);
    const std::uintptr_t last = start + static_cast<std::size_t>(count) * sizeof(iovec) - kSet;
    const auto stack = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
    if (((start ^ stack) | (last ^ stack)) >= kPageSize) { // not all in that page
        const int error = errno;
        bool readable = true;
        for (std::uintptr_t at = start; readable && at <= last;
             at = at == last ? last + 1 : std::min(at + kPageSize, last))
            readable =
                ::syscall(SYS_rt_sigprocmask, kNothing, at, nullptr, kSet) == -1 && errno == EINVAL;
        errno = error;
        if (!readable)
            return false;
    }
    return sum_of(vector, count) >= load_threshold.load() && detail::may_load_now() &&
           acceptable(vector, count);
}

bool concerns_loads(const void *buffer, std::size_t len) noexcept {
    return own_block_of({.iov_base = const_cast<void *>(buffer), .iov_len = len}) != nullptr;
}

bool load_at(int fd, off_t offset, const iovec *vector, int count, ssize_t &got) noexcept {
    const int error = errno;
    const std::size_t len = sum_of(vector, count);
    const bool asks = stream_asks(vector, count, len);
    const std::uint64_t rest = asks || worthwhile(vector, count) ? rest_of(fd, offset) : 0;
    bool served = serves(fd, offset, vector, count, std::min<std::uint64_t>(len, rest), asks);
    if (served) {
        const NoSignals guard;
        got = load_parts(fd, offset, vector, count, len);
        served = got >= 0;
    }
    errno = error;
    return served;
}

// One lseek takes the bytes and moves on, as one read would: another thread that reads
// from the same open file at the same time gets what comes behind them. It never goes
// behind the end of the file.
bool load_here(int fd, const iovec *vector, int count, ssize_t &got) noexcept {
    const int error = errno;
    const std::size_t len = sum_of(vector, count);
    const bool asks = stream_asks(vector, count, len);
    const off_t here = asks || worthwhile(vector, count) ? ::lseek(fd, 0, SEEK_CUR) : -1;
    const std::uint64_t rest = here >= 0 ? rest_of(fd, here) : 0;
    bool served = serves(fd, here, vector, count, std::min<std::uint64_t>(len, rest), asks);
    if (served) {
        const NoSignals guard;
        const auto step = static_cast<off_t>(std::min<std::uint64_t>(len, rest));
        const off_t end = ::lseek(fd, step, SEEK_CUR);
        if (end >= step)
            got = load_parts(fd, end - step, vector, count, static_cast<std::size_t>(step));
        served = end >= step && got >= 0;
        const off_t back = (served ? static_cast<off_t>(got) : 0) - step;
        if (end >= 0 && back != 0)
            (void)::lseek(fd, back, SEEK_CUR);
    }
    errno = error;
    return served;
}

namespace {

// Segments that other threads of the parent had open: nobody closes them in the child, and content
// would stay for as long as it lives. Nothing else has descriptors of segments. They have the
// lowest numbers that were free.
void close_segments() noexcept {
    constexpr int kHighest = 256;
    constexpr std::string_view kName = "/memfd:upm-store";
    for (int fd = 0; fd < kHighest; ++fd) {
        const int seals = ::fcntl(fd, F_GET_SEALS);
        if (seals < 0 || (seals & F_SEAL_WRITE) == 0)
            continue;
        char path[32];
        char link[64];
        (void)std::snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        const ssize_t length = ::readlink(path, link, sizeof(link));
        if (length > 0 &&
            std::string_view(link, static_cast<std::size_t>(length)).starts_with(kName))
            ::close(fd);
    }
}

} // namespace

void loads_after_fork_child() noexcept {
    forget_late();
    home = ::getpid();
    if (under_way.exchange(0) != 0 && !sandboxed())
        close_segments();
}

} // namespace upm::hook
