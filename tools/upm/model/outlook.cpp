// SPDX-License-Identifier: MIT
#include "tools/upm/model/outlook.hpp"

#include <cstdint>
#include <string_view>

namespace upm::tool::cli {

namespace {

// For the mode that merges any memory userfaultfd must be allowed to stop the kernel's
// own writes, which the system's default leaves to CAP_SYS_PTRACE.
std::string freeze_cure(const Surroundings &here) {
    if (here.filtered)
        return "give the container userfaultfd: a seccomp profile that allows it, and "
               "CAP_SYS_PTRACE or /dev/userfaultfd (docs/store.md)";
    if (!here.in_initial)
        return "on the host, as root: sysctl vm.unprivileged_userfaultfd=1 (docs/store.md)";
    return "as root: sysctl vm.unprivileged_userfaultfd=1, or access to /dev/userfaultfd "
           "(docs/store.md)";
}

} // namespace

Outlook outlook(const Info &info, const Surroundings &here) {
    const std::string_view backend = info.backend;
    if (backend == "none")
        return {.merges = false,
                .what = "nothing",
                .cure = "run upmd, load the module, or switch KSM on; see the reason"};
    // Sharing on load needs no privilege, and goes to the store whatever merges.
    constexpr std::uint32_t kLoadsWhileReading = 2;
    const bool loads = info.load == kLoadsWhileReading;
    const std::string read = loads ? "files that programs read into large blocks, at once" : "";
    if (loads && info.quiescent != 0)
        return {.merges = true, .what = read, .cure = ""};
    if (loads && info.immediate != 0)
        return {.merges = true,
                .what = read + "; with UPM_SCOPE=blocks or all, private anonymous pages instead",
                .cure = ""};
    if (info.quiescent != 0)
        return {.merges = false,
                .what = "nothing of unmodified programs: only memory that a program vouches for "
                        "(UPM_QUIESCENT), and files that it reads by upm_load(3)",
                .cure = freeze_cure(here)};
    const std::string files = info.file_pages != 0 ? " and written-to file" : "";
    if (info.immediate != 0)
        return {
            .merges = true, .what = "private anonymous" + files + " pages, at once", .cure = ""};
    return {.merges = true,
            .what = read + (loads ? "; " : "") + "private anonymous" + files +
                    " pages, when the kernel comes by, with those of the whole machine",
            .cure = "load the module or run upmd to merge at once"};
}

} // namespace upm::tool::cli
