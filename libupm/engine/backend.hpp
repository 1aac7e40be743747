// SPDX-License-Identifier: MIT
//
// The contract between the library and its backends. The engine (engine.hpp) is
// the only caller and checks every precondition, so that a backend contains
// nothing but what is special to it. tests/libupm/contract runs one suite over all.
#ifndef UPM_ENGINE_BACKEND_HPP
#define UPM_ENGINE_BACKEND_HPP

#include "libupm/base/gate.hpp"

#include <upm/upm.h>

#include <cerrno>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string_view>

namespace upm {

class Layout;
struct SeedState;

// One line of text of bounded size: reasons must not take memory from the heap.
class Reason {
  public:
    static constexpr std::size_t kSize = 512;

    constexpr Reason() noexcept = default;

    [[gnu::format(printf, 2, 3)]] void set(const char *format, ...) noexcept {
        length_ = 0;
        va_list args;
        va_start(args, format);
        vappend(format, args);
        va_end(args);
    }
    [[gnu::format(printf, 2, 3)]] void append(const char *format, ...) noexcept {
        va_list args;
        va_start(args, format);
        vappend(format, args);
        va_end(args);
    }
    [[nodiscard]] const char *c_str() const noexcept { return text_; }
    [[nodiscard]] std::string_view view() const noexcept { return {text_, length_}; }

  private:
    [[gnu::format(printf, 2, 0)]] void vappend(const char *format, va_list args) noexcept {
        const int wanted = std::vsnprintf(text_ + length_, kSize - length_, format, args);
        if (wanted > 0)
            length_ = length_ + static_cast<std::size_t>(wanted) < kSize
                          ? length_ + static_cast<std::size_t>(wanted)
                          : kSize - 1;
    }

    char text_[kSize] = {};
    std::size_t length_ = 0;
};

// What a backend can do; constant once open() has succeeded.
struct Capabilities {
    bool advise = false;     // merges at all
    bool immediate = false;  // merges before run() returns
    bool remote = false;     // takes Call::pid
    bool file_pages = false; // merges private file mappings
    bool unmerge = false;
    bool dry_run = false;
    bool domains = false;
    // MADV_DONTNEED on merged memory brings the advised bytes back, where others
    // give zeros or the file's bytes.
    bool restores = false;
    bool quiescent = false;  // takes only calls with Call::quiescent
    bool known_only = false; // takes calls with Call::known_only
    unsigned load = 0;       // as upm_info.load
    // Needs no descriptor of another call's: threads with other tables of descriptors may call.
    bool any_table = false;
};

// One validated piece of work.
struct Call {
    std::uint64_t addr = 0; // multiple of the page size
    std::uint64_t len = 0;  // multiple of the page size, > 0, addr + len does not overflow
    int pid = 0;            // 0: this process
    int domain_fd = -1;     // -1: the default domain
    bool unmerge = false;
    bool holes = false; // what is not mapped may be passed over
    bool dry_run = false;
    bool quiescent = false; // the caller vouches that nobody writes meanwhile
    // Pages merge with content that others can share already; none is given to others.
    bool known_only = false;
    // What was found out about the process's mappings, or nullptr. Nobody but the
    // caller and the backend has changed those of the range since.
    const Layout *layout = nullptr;
    // Where the backend waits outside for others, or nullptr. A call that may not come
    // in again ends with -ECANCELED.
    Gate *gate = nullptr;
};

// Is told what a load read plainly because the answer about it came too late, or could not be
// asked for. Called from within the load; it waits for nobody.
class LateParts {
  public:
    constexpr LateParts() noexcept = default;
    LateParts(const LateParts &) = delete;
    LateParts &operator=(const LateParts &) = delete;
    // Whole pages of the destination.
    virtual void add(const std::byte *at, std::size_t size) noexcept = 0;
    // Nothing was asked about the load at all, since nobody shares what this process loads.
    virtual void skipped() noexcept {}
    // All pages of the destination were there already.
    virtual void existed() noexcept {}

  protected:
    ~LateParts() = default;
};

// A read of a file into memory whose pages may come to be shared.
struct LoadCall {
    int fd = -1;
    std::uint64_t offset = 0; // bytes; offset + len does not overflow off_t
    std::byte *into = nullptr;
    std::size_t len = 0;   // bytes, > 0
    int domain_fd = -1;    // -1: the default domain
    Gate *gate = nullptr;  // entered while something is mapped over the destination
    bool ordinary = false; // the caller vouches for the destination: UPM_LOAD_ORDINARY
    bool patient = false;  // nobody waits for it: answers may take seconds
    LateParts *late = nullptr;
};

// What is to be done with seeds, which keep content that nobody maps; see upm.hpp.
struct SeedCall {
    enum class Act : std::uint8_t { kBegin, kEnd, kDrop, kList };
    Act act = Act::kList;
    int domain_fd = -1; // -1: the default domain
    std::uint64_t number = 0;
    std::uint64_t budget = 0; // bytes
    std::uint32_t expire_s = 0;
    std::string_view label = {};
};

struct SeedAnswer {
    std::uint64_t number = 0;
    std::uint8_t token[16] = {};
    std::uint64_t room = 0;    // bytes
    std::uint64_t dropped = 0; // bytes
    std::uint64_t uptime_s = 0;
    std::size_t count = 0; // of what is listed
    std::size_t more = 0;
};

class Backend {
  public:
    constexpr Backend() noexcept = default;
    Backend(const Backend &) = delete;
    Backend &operator=(const Backend &) = delete;

    [[nodiscard]] virtual const char *name() const noexcept = 0;

    // Finds out whether the backend works here.
    // Post: 0, or -errno and nothing is held open. In both cases `reason` is one
    //       line that a user can act on (what was found, or what is missing and
    //       how to get it), without the backend's name.
    // May be called again, from one thread at a time: a later call looks anew.
    virtual int open(Reason &reason) noexcept = 0;

    // Pre: open() has returned 0.
    [[nodiscard]] virtual Capabilities capabilities() const noexcept = 0;

    // Does the work of one call.
    // Pre:  open() has returned 0; the call asks for nothing that capabilities()
    //       denies; counts is zeroed.
    // Post: 0 or -errno. counts tells what was done in either case, and
    //       pages = merged + inserted + zero + already + queued + unmerged + kept
    //       + sum(skipped); on success pages is the whole range. No byte that the
    //       process can read has changed; memory stays private; the same call
    //       again does no harm. -ENOMEM for a hole in the range, found before
    //       anything is changed. bytes is left to the engine.
    // From any thread, several at once, and in the child of a fork.
    virtual int run(const Call &call, upm_counts &counts) noexcept = 0;

    // Reads a file as pread(2) does, and has whole pages of the destination share.
    // Pre:  open() has returned 0; counts is zeroed.
    // Post: the bytes read, or -errno if that is none. The destination holds what the
    //       file held, byte by byte, at some moment of the call; the file's position is
    //       as it was; no byte outside of the destination has changed. counts sums up to
    //       the bytes read. A backend that shares nothing reads plainly.
    // From any thread, several at once, and in the child of a fork.
    virtual std::int64_t load(const LoadCall &call, upm_load_counts &counts) noexcept;

    // What the call describes was read plainly a while ago, since nothing was known of the
    // backend then: others may want to share it. Nothing is read into the destination.
    // Pre:  as of load().
    virtual void loaded_plainly(const LoadCall & /*call*/) noexcept {}

    // Returns true if others share what a load would read, or have asked for it: a look that
    // takes some milliseconds at most. Pre: as for load().
    virtual bool wanted(const LoadCall & /*call*/) noexcept { return false; }

    // The process has unmapped memory that was merged: what is kept for it may go. Waits
    // for nobody. False: that could not be said now.
    virtual bool unmapped() noexcept { return true; }

    // Makes the domain of this key the default one. 0: that needs no descriptor; or -errno.
    // Before the first call, and again only with the same key.
    virtual int use_key(const std::uint8_t (&/*key*/)[16]) noexcept { return -EOPNOTSUPP; }

    // Post: a descriptor with close-on-exec set, or -errno.
    virtual int open_domain(const std::uint8_t (&key)[16]) noexcept = 0;

    // Post: 0 and `stats` filled in, or -errno. Pre: domain_fd is -1 unless
    // capabilities().domains.
    virtual int stats(int domain_fd, struct upm_stats &stats) noexcept = 0;

    // What the backend's service has to say: lines of Prometheus' text format. The
    // length of the text, cut to that of the buffer, or -errno.
    virtual int describe(std::span<char> /*text*/) noexcept { return -EOPNOTSUPP; }

    // Begins, ends, drops or lists seeds. 0 or -errno. What this process loads is kept by
    // the one that it has begun.
    virtual int seed(const SeedCall & /*call*/, SeedAnswer & /*answer*/,
                     std::span<SeedState> /*list*/) noexcept {
        return -EOPNOTSUPP;
    }

    // What base/descriptor_table.hpp says; what is kept open for later calls comes along.
    // Pre: capabilities().any_table.
    virtual bool take_own_table() noexcept;

    // The process has given so many bytes back to the system by trimming: for statistics.
    virtual void trimmed(std::uint64_t /*bytes*/) noexcept {}

  protected:
    // Backends live in static storage and are never destroyed, so that a thread
    // which still works while the process exits does not lose its backend.
    ~Backend() = default;
};

} // namespace upm

#endif // UPM_ENGINE_BACKEND_HPP
