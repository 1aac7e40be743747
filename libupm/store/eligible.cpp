// SPDX-License-Identifier: MIT
#include "libupm/store/eligible.hpp"

#include "libupm/base/system.hpp"
#include "libupm/store/frozen.hpp"

#include <upm/upm.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <pthread.h>
#include <span>
#include <sys/mman.h>

namespace upm::store {

namespace {

struct Rule {
    std::uint32_t flags;
    unsigned reason;
};
constexpr Rule kRules[] = {
    {kVmaHugetlb, UPM_SKIPPED_HUGETLB},
    {kVmaShared, UPM_SKIPPED_SHARED},
    {kVmaSecret, UPM_SKIPPED_SECRET},
    {kVmaUffd, UPM_SKIPPED_UFFD},
    {kVmaHeap | kVmaStack | kVmaLocked | kVmaDontfork | kVmaKey, UPM_SKIPPED_UNSUPPORTED},
    // Last, since the module makes special what it merges: a stack stays a stack.
    {kVmaSpecial, UPM_SKIPPED_SPECIAL},
};

// Returns true if a part holds memory that the calling thread needs while that is frozen:
// its stack from the call's frame on downwards, and its thread control block with errno and
// what the kernel keeps there for it (rseq). Not a byte more: a block may lie right beside
// the stack of the thread that works on it, on either side.
bool holds_this_thread(const Vma &part, const void *frame) noexcept {
    constexpr std::uint64_t kDeepest = 64UL * 1024; // that this stack grows meanwhile
    // At the top of a stack by glibc, so not above the end of struct pthread.
    constexpr std::uint64_t kBlock = 2304;
    const char local = 0;
    const auto here = reinterpret_cast<std::uint64_t>(&local);
    const auto block = static_cast<std::uint64_t>(::pthread_self());
    const auto error = reinterpret_cast<std::uint64_t>(&errno);
    const auto overlaps = [&](std::uint64_t start, std::uint64_t end) {
        return part.start < end && start < part.end;
    };
    return overlaps(here - kDeepest, reinterpret_cast<std::uint64_t>(frame)) ||
           overlaps(block, block + kBlock) || overlaps(error, error + sizeof(errno));
}

using Entries = std::span<const std::uint64_t>;

// Calls visit(first, entries) for the pages of the window, with their entries of the page
// map. 0 or -errno.
template <class Visit>
int for_each_batch(const Window &window, const PageMap &pagemap, Visit visit) noexcept {
    std::uint64_t entries[kBatch];
    for (std::uint32_t first = 0; first < window.pages(); first += kBatch) {
        const std::uint32_t count = std::min(kBatch, window.pages() - first);
        const int ret = pagemap.read(window.address(first), count, entries);
        if (ret != 0)
            return ret;
        visit(first, Entries(entries, count));
    }
    return 0;
}

} // namespace

bool eligible(const Vma &part, const void *frame, unsigned &reason) noexcept {
    for (const Rule &rule : kRules) {
        if ((part.flags & rule.flags) != 0) {
            reason = rule.reason;
            return false;
        }
    }
    if ((part.flags & kVmaFile) != 0 && (part.flags & kVmaSegment) == 0) {
        reason = UPM_SKIPPED_FILE;
        return false;
    }
    reason = UPM_SKIPPED_UNSUPPORTED;
    return (part.protection & PROT_READ) != 0 && (part.protection & PROT_EXEC) == 0 &&
           !holds_this_thread(part, frame);
}

int sort_out(Window &window, const PageMap &pagemap, bool segment) noexcept {
    if (!segment && pagemap.all_present(window.address(0), window.pages() * page_size()))
        return 0;
    return for_each_batch(window, pagemap, [&](std::uint32_t first, Entries entries) {
        window.sort_out(first, entries, segment);
    });
}

int put_forked_aside(Window &window, const PageMap &pagemap) noexcept {
    return for_each_batch(window, pagemap, [&](std::uint32_t first, Entries entries) {
        window.put_forked_aside(first, entries);
    });
}

} // namespace upm::store
