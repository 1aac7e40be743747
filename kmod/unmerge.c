// SPDX-License-Identifier: GPL-2.0-only
/*
 * Unmerging: every shared page of a range becomes a private copy again, by the
 * same copy-on-write fault that a write by the program takes.
 */
#include <linux/highmem.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>

#include "compat/compat.h"
#include "upm.h"

/* Passes of upm_unmerge_all(): a process may fork while we work. */
#define ALL_PASSES 8

/*
 * Break pages [from, to) of the batch; returns how many, or -errno. A copy needs to
 * wait for nothing; where a page went meanwhile, FOLL_NOWAIT keeps a program that
 * serves its file (FUSE) from holding up the administrator's brake.
 */
static long unmerge_run(struct upm_call *call, unsigned int from,
			unsigned int to)
{
	return upm_gup_remote(call->mm, call->addr + from * PAGE_SIZE,
			      to - from, FOLL_WRITE | FOLL_FORCE | FOLL_NOWAIT,
			      NULL);
}

static bool is_merged(enum upm_page_state state)
{
	return state == UPM_PAGE_MERGED || state == UPM_PAGE_ORPHAN;
}

static int unmerge_batch(struct upm_call *call, const struct upm_scan *scan)
{
	struct upm_ioc_counts *c = &call->counts;
	unsigned int i, j;
	long done;

	for (i = 0; i < scan->nr; i = j) {
		bool merged = is_merged(scan->page[i].state);

		for (j = i; j < scan->nr &&
		     is_merged(scan->page[j].state) == merged; j++)
			;
		c->pages += j - i;
		if (!merged) {
			c->kept += j - i;
			continue;
		}
		done = max(unmerge_run(call, i, j), 0L);
		c->unmerged += done;
		atomic64_add(done, &upm_totals.unmerged);
		if (done == j - i)
			continue;
		if (fatal_signal_pending(current)) {
			c->pages -= j - i - done;
			call->addr += (i + done) * PAGE_SIZE;
			return -EINTR;
		}
		c->skipped[UPM_SKIP_NOMEM] += j - i - done;
	}
	call->addr += scan->nr * PAGE_SIZE;
	return 0;
}

/* What was never merged is kept, whatever the reason. */
static int unmerge_some(struct upm_call *call, struct upm_scan *scan)
{
	unsigned long end;
	struct vm_area_struct *vma = upm_call_vma(call, &end);

	if (!vma)
		return 0;
	if (!upm_vma_may_hold_merged(vma)) {
		call->counts.pages += (end - call->addr) >> PAGE_SHIFT;
		call->counts.kept += (end - call->addr) >> PAGE_SHIFT;
		call->addr = end;
		return 0;
	}
	upm_scan_range(vma, call->addr,
		       min_t(unsigned long, (end - call->addr) >> PAGE_SHIFT,
			     UPM_BATCH_MAX), scan);
	return unmerge_batch(call, scan);
}

/* Same contract as upm_merge(); needs the mmap_lock for reading only. */
int upm_unmerge(struct upm_call *call)
{
	struct upm_scan *scan = kvmalloc(sizeof(*scan), GFP_KERNEL_ACCOUNT);
	int err = 0;

	if (!scan)
		return -ENOMEM;
	while (call->addr < call->end && !err) {
		if (mmap_read_lock_killable(call->mm)) {
			err = -EINTR;
			break;
		}
		err = upm_call_stop(call, false);
		if (!err)
			err = unmerge_some(call, scan);
		mmap_read_unlock(call->mm);
		cond_resched();
	}
	kvfree(scan);
	return err;
}

/* ---- all processes: the administrator's emergency brake ----------------- */

static int unmerge_task(struct task_struct *task, unsigned long *unmerged)
{
	struct upm_call call = { .task = task };
	int err;

	call.mm = get_task_mm(task);
	if (!call.mm)
		return 0;
	call.end = call.mm->task_size & PAGE_MASK;
	err = upm_unmerge(&call);
	*unmerged += call.counts.unmerged;
	mmput(call.mm);
	return err == -ESRCH ? 0 : err;
}

/**
 * upm_unmerge_all() - unmerge all processes
 *
 * Goes on until a pass finds nothing, since a process may fork meanwhile. The
 * caller has disabled merging, which stops the calls that run: upm_call_stop().
 *
 * Return: 0, -EINTR on a fatal signal, -ENOMEM, -EAGAIN if shared pages are
 * still found after ALL_PASSES.
 */
int upm_unmerge_all(void)
{
	unsigned long unmerged;
	struct task_struct **tasks;
	unsigned int i, nr, pass;
	int err = 0;

	for (pass = 0; pass < ALL_PASSES; pass++) {
		unmerged = 0;
		tasks = upm_tasks_get(&nr);
		if (!tasks)
			return -ENOMEM;
		for (i = 0; i < nr; i++) {
			if (!err)
				err = unmerge_task(tasks[i], &unmerged);
			put_task_struct(tasks[i]);
		}
		kvfree(tasks);
		if (err || !unmerged)
			return err;
	}
	return -EAGAIN;
}
