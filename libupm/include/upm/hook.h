/* SPDX-License-Identifier: MIT */
/*
 * What libupm-preload.so offers to the program that it was preloaded into. There
 * is nothing to link: look the functions up with dlsym(RTLD_DEFAULT, ...), which
 * finds them only where the hook is present and awake.
 *
 * Every function may be called from any thread, none from a signal handler.
 */
/* clang-format off */
#ifndef UPM_HOOK_H
#define UPM_HOOK_H

#include <upm/upm.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * upm_hook_mark - number of the next block that the hook will take on. Blocks are
 * numbered in the order of their allocation.
 */
uint64_t upm_hook_mark(void);

/*
 * upm_hook_advise - trim and advise now, in the calling thread, what the hook has
 * taken on since the mark (0: all of it), as it does by itself when the program is
 * idle. counts may be NULL.
 * Returns 0, or a negative errno of the last call that failed: -EOPNOTSUPP when
 * there is no backend.
 */
int upm_hook_advise(uint64_t mark, struct upm_counts *counts);

/*
 * upm_hook_note - the program advises [addr, addr + len) by a libupm of its own.
 * Called before it does, so that the hook does not use blocks in there again, which
 * may show shared content from then on. Returns 0.
 */
int upm_hook_note(void *addr, size_t len);

/* What the hook did so far; the line at exit with UPM_VERBOSE=1 says the same. */
struct upm_hook_stats {
	uint64_t blocks;	/* taken on, in all */
	uint64_t bytes;		/* of these */
	uint64_t live_blocks;	/* of these, now */
	uint64_t live_bytes;
	uint64_t passes;	/* times that it looked for something to advise */
	uint64_t retired;	/* blocks given up, because their pages kept breaking */
	uint64_t trimmed_bytes; /* freed by trimming the heap; not by merging */
	struct upm_counts counts; /* sums over all calls */
	uint64_t loaded_shared; /* bytes of files read into pages that were known */
	uint64_t loaded_made;	/* the same, in pages that were made for others to share */
	uint64_t reserved[2];
};
int upm_hook_report(struct upm_hook_stats *report);

#ifdef __cplusplus
}
#endif
#endif /* UPM_HOOK_H */
