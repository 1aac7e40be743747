// SPDX-License-Identifier: MIT
//
// What the two halves of the merger share. Its working memory is a mapping of its
// own: nothing on the advise path may take memory from the program's heap.
#ifndef UPM_STORE_SCRATCH_HPP
#define UPM_STORE_SCRATCH_HPP

#include "libupm/base/system.hpp"
#include "libupm/store/merger.hpp"
#include "libupm/store/segment.hpp"

#include <cerrno>
#include <csignal>
#include <cstring>

namespace upm::store {

// Bits of an entry of /proc/PID/pagemap (Documentation/admin-guide/mm/pagemap.rst).
inline constexpr std::uint64_t kPresent = 1ULL << 63;
inline constexpr std::uint64_t kSwapped = 1ULL << 62;
inline constexpr std::uint64_t kFilePage = 1ULL << 61;
inline constexpr std::uint64_t kWriteProtected = 1ULL << 57; // by userfaultfd

// Pages that are frozen together: a huge page, so that one need not be split that
// is replaced as a whole. Bounds how long a writer waits.
inline constexpr std::uint32_t kBatch = 512;

// No error: what was looked up is to be looked up once more.
inline constexpr int kAgain = 1;

// Errors after which the connection is of no use any more.
inline bool broken(int error) noexcept {
    return error == -ECONNRESET || error == -EPROTO || error == -ETIMEDOUT || error == -ENOTCONN;
}

inline void *pointer(std::uint64_t address) noexcept {
    return reinterpret_cast<void *>(address);
}

// While memory is frozen, no handler of the program may run in this thread.
class NoSignals {
  public:
    NoSignals() noexcept {
        sigset_t everything;
        (void)::sigfillset(&everything);
        (void)::pthread_sigmask(SIG_SETMASK, &everything, &before_);
    }
    NoSignals(const NoSignals &) = delete;
    NoSignals &operator=(const NoSignals &) = delete;
    ~NoSignals() { (void)::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

  private:
    sigset_t before_{};
};

inline bool is_zero(const std::byte *page) noexcept {
    return page[0] == std::byte{0} && std::memcmp(page, page + 1, page_size() - 1) == 0;
}

struct Merger::Scratch {
    static constexpr std::uint32_t kTable = 4 * kMaxPages; // a power of two

    std::uint64_t pagemap[kMaxPages];         // of the window; later, of a frozen batch
    PageState state[kMaxPages];               // of the window
    bool mapped[kMaxPages];                   // of the batch: something else is there now
    std::uint64_t hashes[kMaxPages];          // of those pages that were hashed
    std::uint32_t index[kMaxPages];           // which pages of the window these are
    Place places[kMaxPages];                  // and where they are to be found
    std::uint64_t unique[kMaxPages];          // hashes of the segment that is being made
    std::uint16_t table[kTable];              // over them: 1 + number, 0: free
    std::uint32_t blocks[kMaxPages / kBatch]; // first pages of those that get a huge page
    std::byte packet[kMaxPacket];
};

} // namespace upm::store

#endif // UPM_STORE_SCRATCH_HPP
