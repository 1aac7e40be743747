// SPDX-License-Identifier: MIT
#include "libupm/backends/ksm.hpp"

#include "libupm/base/system.hpp"
#include "libupm/mm/pagemap.hpp"
#include "libupm/mm/vma_reader.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <climits>
#include <cstdio>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace upm {

namespace {

// sizeof(struct ksm_rmap_item), which KSM's own general_profit charges for each
// page that it keeps track of; mm/ksm.c.
constexpr std::uint64_t kRmapItemBytes = 64;

class Descriptor {
  public:
    explicit Descriptor(const char *path) noexcept : fd_(::open(path, O_RDONLY | O_CLOEXEC)) {}
    Descriptor(const Descriptor &) = delete;
    Descriptor &operator=(const Descriptor &) = delete;
    ~Descriptor() {
        if (fd_ >= 0)
            ::close(fd_);
    }
    [[nodiscard]] int get() const noexcept { return fd_; }

  private:
    int fd_;
};

// Whether KSM would refuse the mapping, or ought to: it takes MADV_MERGEABLE in
// silence for mappings that it then ignores, and does not know our rule that
// memory marked as secret is never merged.
bool excluded(const Vma &vma, unsigned &reason) noexcept {
    struct Rule {
        VmaFlag flag;
        unsigned reason;
    };
    constexpr Rule kRules[] = {
        {kVmaHugetlb, UPM_SKIPPED_HUGETLB}, {kVmaShared, UPM_SKIPPED_SHARED},
        {kVmaSpecial, UPM_SKIPPED_SPECIAL}, {kVmaSecret, UPM_SKIPPED_SECRET},
        {kVmaUffd, UPM_SKIPPED_UFFD},
    };
    for (const Rule &rule : kRules) {
        if ((vma.flags & rule.flag) != 0) {
            reason = rule.reason;
            return true;
        }
    }
    return false;
}

struct Anonymity {
    std::uint64_t anonymous = 0;
    std::uint64_t file = 0;
    std::uint64_t absent = 0;
};

// KSM merges anonymous pages only. In a private file mapping these are the ones
// that were written; /proc/PID/pagemap tells them apart.
bool look_at_pages(const char *proc, std::uint64_t start, std::uint64_t end,
                   Anonymity &found) noexcept {
    char path[PATH_MAX];
    (void)std::snprintf(path, sizeof(path), "%s/pagemap", proc);
    const PageMap pagemap(path);
    if (pagemap.error() != 0)
        return false;

    constexpr std::uint64_t kAtOnce = 256;
    std::uint64_t entries[kAtOnce];
    for (std::uint64_t at = start; at < end;) {
        const auto count = static_cast<std::uint32_t>(std::min(kAtOnce, (end - at) / page_size()));
        if (pagemap.read(at, count, entries) != 0)
            return false;
        for (std::uint32_t i = 0; i < count; ++i) {
            if ((entries[i] & (kPagePresent | kPageSwapped)) == 0)
                ++found.absent;
            else if ((entries[i] & kPageOfFile) != 0)
                ++found.file;
            else
                ++found.anonymous;
        }
        at += count * page_size();
    }
    return true;
}

// Counts one part as work for the scanner. False: nothing in it is.
bool count_part(const char *proc, const Vma &part, const Call &call, upm_counts &counts) noexcept {
    const std::uint64_t pages = (part.end - part.start) / page_size();
    unsigned reason = 0;
    if (call.unmerge) {
        const bool queued_before = (part.flags & kVmaMergeable) != 0;
        (queued_before ? counts.unmerged : counts.kept) += pages;
        return queued_before;
    }
    if (excluded(part, reason)) {
        counts.skipped[reason] += pages;
        return false;
    }
    Anonymity found;
    if ((part.flags & kVmaFile) == 0)
        found.anonymous = pages;
    else if (!look_at_pages(proc, part.start, part.end, found))
        found = {.anonymous = 0, .file = pages, .absent = 0};
    counts.queued += found.anonymous;
    counts.skipped[UPM_SKIPPED_FILE] += found.file;
    counts.skipped[UPM_SKIPPED_NOT_PRESENT] += found.absent;
    return found.anonymous > 0;
}

int advise_part(const char *proc, const Vma &part, const Call &call, upm_counts &counts) noexcept {
    upm_counts counted = counts;
    if (count_part(proc, part, call, counted) && !call.dry_run) {
        // NOLINTNEXTLINE(performance-no-int-to-ptr): an address of this process
        void *const addr = reinterpret_cast<void *>(part.start);
        const int advice = call.unmerge ? MADV_UNMERGEABLE : MADV_MERGEABLE;
        if (::madvise(addr, part.end - part.start, advice) != 0)
            return -errno; // not counted: nothing became of this part
    }
    counted.pages += (part.end - part.start) / page_size();
    counts = counted;
    return 0;
}

void count_hole(std::uint64_t bytes, upm_counts &counts) noexcept {
    counts.pages += bytes / page_size();
    counts.skipped[UPM_SKIPPED_UNMAPPED] += bytes / page_size();
}

} // namespace

bool KsmBackend::knob(const char *name, std::uint64_t &value) const noexcept {
    char path[PATH_MAX];
    char text[32];
    (void)std::snprintf(path, sizeof(path), "%s/%s", knobs_, name);
    const Descriptor file(path);
    const ssize_t got = file.get() < 0 ? -1 : ::read(file.get(), text, sizeof(text));
    return got > 0 && std::from_chars(text, text + got, value).ec == std::errc();
}

int KsmBackend::open(Reason &reason) noexcept {
    std::uint64_t run = 0;
    if (!knob("run", run)) {
        reason.set("this kernel has no KSM (no %s)", knobs_);
        return -EOPNOTSUPP;
    }
    if (run != 1) {
        reason.set("KSM does not run: %s/run is %llu (as root: echo 1 > %s/run)", knobs_,
                   static_cast<unsigned long long>(run), knobs_);
        return -EOPNOTSUPP;
    }
    reason.set("KSM runs: merges in the background, anonymous memory only, across all users");
    return 0;
}

int KsmBackend::run_parts(const Call &call, upm_counts &counts) noexcept {
    const char *const proc = proc_ != nullptr ? proc_ : own_proc();
    char path[PATH_MAX];
    (void)std::snprintf(path, sizeof(path), "%s/smaps", proc);
    SmapsReader smaps(path);
    const std::uint64_t end = call.addr + call.len;
    std::uint64_t next = call.addr;
    Vma vma;
    while (next < end && smaps.next(vma)) {
        if (vma.end <= next)
            continue;
        if (vma.start >= end)
            break;
        if (vma.start > next) // went away after the check for holes
            count_hole(vma.start - next, counts);
        const Vma part{
            .start = std::max(vma.start, next), .end = std::min(vma.end, end), .flags = vma.flags};
        const int ret = advise_part(proc, part, call, counts);
        if (ret != 0)
            return ret;
        next = part.end;
    }
    if (smaps.error() != 0)
        return smaps.error();
    count_hole(end - next, counts);
    return 0;
}

int KsmBackend::run(const Call &call, upm_counts &counts) noexcept {
    const std::uint64_t start = now_ns();
    // MS_ASYNC does nothing but to look for holes, far faster than /proc does.
    // NOLINTNEXTLINE(performance-no-int-to-ptr): an address of this process
    if (::msync(reinterpret_cast<void *>(call.addr), call.len, MS_ASYNC) != 0)
        return -errno;
    const int ret = run_parts(call, counts);
    counts.nanoseconds = now_ns() - start;
    return ret;
}

int KsmBackend::open_domain(const std::uint8_t (&/*key*/)[16]) noexcept {
    return -EOPNOTSUPP;
}

int KsmBackend::stats(int /*domain_fd*/, struct upm_stats &stats) noexcept {
    std::uint64_t unshared = 0;
    std::uint64_t volatile_pages = 0;
    if (!knob("pages_shared", stats.pages_shared) || !knob("pages_sharing", stats.pages_sharing) ||
        !knob("pages_unshared", unshared) || !knob("pages_volatile", volatile_pages))
        return -EOPNOTSUPP;
    stats.metadata_bytes =
        kRmapItemBytes * (stats.pages_shared + stats.pages_sharing + unshared + volatile_pages);
    return 0;
}

} // namespace upm
