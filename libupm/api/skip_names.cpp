// SPDX-License-Identifier: MIT
#include <upm/upm.h>

#include "libupm/api/export.hpp"

namespace {

// Stable: scripts and the tools' JSON use these words.
struct Names {
    const char *of[UPM_SKIPPED_NR] = {};
    constexpr Names() noexcept {
        of[UPM_SKIPPED_NOT_PRESENT] = "not_present";
        of[UPM_SKIPPED_SWAPPED] = "swapped";
        of[UPM_SKIPPED_BUSY] = "busy";
        of[UPM_SKIPPED_SHARED] = "shared";
        of[UPM_SKIPPED_HUGETLB] = "hugetlb";
        of[UPM_SKIPPED_SPECIAL] = "special";
        of[UPM_SKIPPED_UFFD] = "uffd";
        of[UPM_SKIPPED_SECRET] = "secret";
        of[UPM_SKIPPED_KSM] = "ksm";
        of[UPM_SKIPPED_COMPOUND] = "compound";
        of[UPM_SKIPPED_LIMIT] = "limit";
        of[UPM_SKIPPED_NOMEM] = "nomem";
        of[UPM_SKIPPED_COLLISION] = "collision";
        of[UPM_SKIPPED_FILE] = "file";
        of[UPM_SKIPPED_UNMAPPED] = "unmapped";
        of[UPM_SKIPPED_PRESENT] = "present";
        of[UPM_SKIPPED_UNSUPPORTED] = "unsupported";
    }
};

constexpr Names kNames;

} // namespace

UPM_EXPORT const char *upm_skip_name(unsigned reason) {
    return reason < UPM_SKIPPED_NR ? kNames.of[reason] : nullptr;
}
