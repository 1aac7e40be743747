// SPDX-License-Identifier: MIT
//
// Wakes the hook when the program starts, says at exit what it did, and answers
// the calls of upm/hook.h.
#include "preload/adviser.hpp"
#include "preload/any_libc.h"
#include "preload/blocks.hpp"
#include "preload/changes.hpp"
#include "preload/enable.hpp"
#include "preload/keyed.hpp"
#include "preload/loads.hpp"
#include "preload/local.hpp"
#include "preload/page.hpp"
#include "preload/pass.hpp"
#include "preload/real.hpp"
#include "preload/sandbox.hpp"
#include "preload/settings.hpp"
#include "preload/short_lived.hpp"
#include "preload/stacks.hpp"
#include "preload/streams.hpp"

#include <cstdio>
#include <cstdlib>
#include <pthread.h>
#include <string_view>
#include <sys/auxv.h>
#include <unistd.h>
#include <upm/hook.h>
#include <upm/upm.hpp>

#define UPM_HOOK_API extern "C" __attribute__((visibility("default")))

namespace upm::hook {

namespace {

constinit Settings settings;
constinit bool awake = false;

double mib(std::uint64_t bytes) noexcept {
    return static_cast<double>(bytes) / (1 << 20);
}

// Nothing is hooked in a program that has more rights than its caller: neither its
// environment nor a library of the caller's choice may steer it. (ld.so loads one
// there only from the system's own folders.)
bool may_work() noexcept {
    return upm_hook_libc_suffices() != 0 && ::getauxval(AT_SECURE) == 0 &&
           ::sysconf(_SC_PAGESIZE) == static_cast<long>(kPageSize);
}

[[gnu::constructor]] void wake() noexcept {
    take_over_layout(); // also where the hook stays out
    if (!may_work() || !ready())
        return;
    settings = read_settings();
    if (settings.profile && !start_profile())
        (void)::dprintf(STDERR_FILENO, "upm[%d]: no profile: cannot load libunwind.so.8\n",
                        ::getpid());
    make_local();
    start_adviser(settings);
    awake = true;
    if (settings.loads) {
        find_streams();
        expect_loads(settings.min_bytes);
        if (settings.of_seed)
            short_lived.never(); // what it loads stays, however soon it is freed
    }
    set_threshold(settings.min_bytes);
}

// A backend that takes nothing of an unmodified program has a reason for it.
void print_why_nothing() noexcept {
    const Info found = upm::info();
    const bool loads = settings.loads && found.load == kLoadsWhileReading;
    if (loads || (found.quiescent == 0 && std::string_view(found.backend) != "none"))
        return;
    char line[512];
    const int length =
        std::snprintf(line, sizeof(line), "upm[%d]: nothing was merged: %s (see upm doctor)\n",
                      ::getpid(), found.reason);
    if (length > 0)
        (void)!::write(STDERR_FILENO, line,
                       std::min(static_cast<std::size_t>(length), sizeof(line) - 1));
}

void print_summary() noexcept {
    upm_hook_stats report;
    fill_report(report);
    if (report.blocks == 0 && report.passes == 0)
        return; // a small program
    // To ask for the backend is to look for one, which a short program need not pay.
    const bool asked =
        report.passes != 0 || gave_up() || report.loaded_shared + report.loaded_made != 0;
    const char *const backend = asked ? upm::info().backend : "not asked (no pass)";
    const upm_counts &counts = report.counts;
    Counts sum;
    sum += counts;
    char line[512];
    const int length = std::snprintf(
        line, sizeof(line),
        "upm[%d]: backend %s; %llu blocks, %.1f MiB (now %llu, %.1f MiB); %llu passes in %.3f s: "
        "%.1f MiB merged, %.1f new, %.1f zero, %.1f queued, %.1f skipped; "
        "%llu blocks kept breaking; trimmed %.1f MiB; "
        "loaded %.1f MiB shared, %.1f made\n",
        ::getpid(), backend, static_cast<unsigned long long>(report.blocks), mib(report.bytes),
        static_cast<unsigned long long>(report.live_blocks), mib(report.live_bytes),
        static_cast<unsigned long long>(report.passes),
        static_cast<double>(counts.nanoseconds) / 1e9, mib(counts.merged * kPageSize),
        mib(counts.inserted * kPageSize), mib(counts.zero * kPageSize),
        mib(counts.queued * kPageSize), mib(sum.skipped_pages() * kPageSize),
        static_cast<unsigned long long>(report.retired), mib(report.trimmed_bytes),
        mib(report.loaded_shared), mib(report.loaded_made));
    if (length > 0)
        (void)!::write(STDERR_FILENO, line,
                       std::min(static_cast<std::size_t>(length), sizeof(line) - 1));
    if (asked)
        print_why_nothing();
}

[[gnu::destructor]] void finish() noexcept {
    if (!awake)
        return;
    const Guard guard;
    end_all_pieces(); // and wait for none: the process ends
    if (sandboxed())
        return;
    if (settings.verbose)
        print_summary();
    if (settings.profile)
        print_profile(STDERR_FILENO);
}

} // namespace

} // namespace upm::hook

// The end of a thread unwinds its stack, this frame among it.
UPM_HOOK_API __attribute__((noreturn)) void pthread_exit(void *result) {
    if (upm::hook::ready() && upm::hook::real().pthread_exit != nullptr) {
        upm::hook::notice_exit();
        upm::hook::real().pthread_exit(result);
    }
    ::_exit(EXIT_FAILURE);
}

// Of C11; glibc has it from 2.28 on.
UPM_HOOK_API __attribute__((noreturn)) void thrd_exit(int result) {
    if (upm::hook::ready() && upm::hook::real().thrd_exit != nullptr) {
        upm::hook::notice_exit();
        upm::hook::real().thrd_exit(result);
    }
    ::_exit(EXIT_FAILURE);
}

// gcc's AddressSanitizer ends a program in which another library comes before it.
// NOLINTNEXTLINE(bugprone-reserved-identifier,readability-identifier-naming)
UPM_HOOK_API const char *__asan_default_options() {
    return "verify_asan_link_order=0";
}

UPM_HOOK_API std::uint64_t upm_hook_mark() {
    return upm::hook::next_block_number();
}

UPM_HOOK_API int upm_hook_advise(std::uint64_t mark, upm_counts *counts) {
    upm_counts unwanted;
    return upm::hook::advise_now(mark, counts != nullptr ? *counts : unwanted);
}

UPM_HOOK_API int upm_hook_note(void *addr, std::size_t len) {
    upm::hook::note_advised(addr, len);
    return 0;
}

UPM_HOOK_API int upm_hook_report(struct upm_hook_stats *report) {
    upm::hook::fill_report(*report);
    return 0;
}
