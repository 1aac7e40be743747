// SPDX-License-Identifier: GPL-2.0-only
/*
 * A dry run: what an advise would do, against what is known now. It freezes
 * nothing and changes nothing; what it reads may change while it reads.
 */
#include <linux/highmem.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>

#include "compat/compat.h"
#include "upm.h"

static void count_page(struct upm_call *call, struct vm_area_struct *vma,
		       struct page *page)
{
	int nid = READ_ONCE(upm_knobs.merge_across_nodes) ? NUMA_NO_NODE
							  : page_to_nid(page);
	const void *bytes = kmap_local_page(page);
	struct upm_entry *entry;

	if (!upm_page_readable(page, bytes)) {
		call->counts.skipped[UPM_SKIP_BUSY]++;
	} else if (vma_is_anonymous(vma) && !memchr_inv(bytes, 0, PAGE_SIZE)) {
		call->counts.zero++;
	} else {
		entry = upm_index_get(call->dom,
				      upm_bytes_hash(call->dom, bytes, nid));
		if (entry) {
			put_page(entry->page);
			call->counts.merged++;
		} else {
			call->counts.inserted++;
		}
	}
	kunmap_local(bytes);
}

static void count_candidate(struct upm_call *call, struct vm_area_struct *vma,
			    unsigned long addr)
{
	struct page *page;

	/* The page was there just now. If not, no fault may bring it again. */
	if (upm_gup_remote(call->mm, addr, 1, FOLL_FORCE | FOLL_NOFAULT,
			   &page) != 1) {
		call->counts.skipped[UPM_SKIP_BUSY]++;
		return;
	}
	count_page(call, vma, page);
	put_page(page);
}

static void count_batch(struct upm_call *call, struct vm_area_struct *vma,
			const struct upm_scan *scan)
{
	unsigned int i;

	call->counts.pages += scan->nr;
	for (i = 0; i < scan->nr; i++) {
		switch (scan->page[i].state) {
		case UPM_PAGE_CANDIDATE:
		case UPM_PAGE_ORPHAN:
			count_candidate(call, vma, call->addr + i * PAGE_SIZE);
			break;
		case UPM_PAGE_ZERO:
		case UPM_PAGE_MERGED:
			call->counts.already++;
			break;
		default:
			call->counts.skipped[scan->page[i].reason]++;
		}
	}
}

/* As upm_merge(), with the same contract, but only counts. */
int upm_dry_run(struct upm_call *call)
{
	struct upm_scan *scan = kvmalloc(sizeof(*scan), GFP_KERNEL_ACCOUNT);
	struct vm_area_struct *vma;
	unsigned int nr;
	int err = 0;

	if (!scan)
		return -ENOMEM;
	while (call->addr < call->end && !err) {
		if (mmap_read_lock_killable(call->mm)) {
			err = -EINTR;
			break;
		}
		err = upm_call_stop(call, true);
		vma = err ? NULL : upm_call_mergeable(call, &nr);
		if (vma) {
			upm_scan_range(vma, call->addr, nr, scan);
			count_batch(call, vma, scan);
			call->addr += scan->nr * PAGE_SIZE;
		}
		mmap_read_unlock(call->mm);
		cond_resched();
	}
	kvfree(scan);
	return err;
}
