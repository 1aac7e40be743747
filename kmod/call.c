// SPDX-License-Identifier: GPL-2.0-only
/*
 * What merge, dry run and unmerge have in common: the way over a range, and for what all
 * processes have to be gone through, the way over them.
 */
#include <linux/lockdep.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/slab.h>

#include "upm.h"

/**
 * upm_call_stop() - reasons to end a call before its range does, for each batch
 * @call: call; the mmap_lock of its mm is held
 * @merging: it merges, so the brake stops it
 *
 * The brake counts on the lock: whoever wrote to unmerge set enabled to 0 before
 * taking this lock for reading. So a batch that began before is done by then, and
 * one that begins after sees it.
 *
 * A target that was killed, or runs another program by now, has let go of the
 * mm, and only this call keeps its memory.
 *
 * Return: 0; -EINTR on a fatal signal; -ESRCH if the target has gone; -EOPNOTSUPP
 * if merging was disabled.
 */
int upm_call_stop(const struct upm_call *call, bool merging)
{
	lockdep_assert_held(&call->mm->mmap_lock);
	if (fatal_signal_pending(current))
		return -EINTR;
	if (call->mm != current->mm && READ_ONCE(call->task->mm) != call->mm)
		return -ESRCH;
	if (merging && !READ_ONCE(upm_knobs.enabled))
		return -EOPNOTSUPP;
	return 0;
}

/* Count pages by what became of them. */
void upm_call_count(struct upm_call *call, const struct upm_verdict *pages,
		    unsigned int nr)
{
	struct upm_ioc_counts *c = &call->counts;
	const struct upm_verdict *v;

	c->pages += nr;
	for (v = pages; v < pages + nr; v++) {
		switch (v->state) {
		case UPM_FOUND_KNOWN:
			c->merged++;
			break;
		case UPM_FOUND_NEW:
			c->inserted++;
			break;
		case UPM_FOUND_ZERO:
		case UPM_FOUND_ZEROED:
			c->zero++;
			break;
		case UPM_PAGE_ZERO:
		case UPM_PAGE_MERGED:
			c->already++;
			break;
		case UPM_PAGE_ORPHAN:	/* could not be made a candidate */
			c->skipped[UPM_SKIP_NOMEM]++;
			break;
		default:
			c->skipped[v->reason]++;
		}
	}
}

/* Count @pages of the range as left for @reason. */
void upm_call_skip(struct upm_call *call, enum upm_skip reason,
		   unsigned long pages)
{
	call->counts.pages += pages;
	call->counts.skipped[reason] += pages;
}

/**
 * upm_call_vma() - the VMA that holds call->addr
 * @call: its range is not worked through; the mmap_lock of its mm is held
 * @end: where the VMA's part of the range ends
 *
 * Return: the VMA; NULL if there is none: then the pages up to the next one are
 * counted as unmapped, and call->addr is behind them.
 */
struct vm_area_struct *upm_call_vma(struct upm_call *call, unsigned long *end)
{
	struct vm_area_struct *vma;

	lockdep_assert_held(&call->mm->mmap_lock);
	vma = find_vma(call->mm, call->addr);
	*end = call->end;
	if (vma && vma->vm_start <= call->addr) {
		*end = min(*end, vma->vm_end);
		return vma;
	}
	if (vma)
		*end = min(*end, vma->vm_start);
	upm_call_skip(call, UPM_SKIP_UNMAPPED,
		      (*end - call->addr) >> PAGE_SHIFT);
	call->addr = *end;
	return NULL;
}

/*
 * As upm_call_vma(), for a VMA that may be merged; *@nr is how many of its pages
 * come next, at most a batch. What lies in another VMA is counted as skipped.
 */
struct vm_area_struct *upm_call_mergeable(struct upm_call *call,
					  unsigned int *nr)
{
	unsigned long end, pages;
	struct vm_area_struct *vma = upm_call_vma(call, &end);
	enum upm_skip reason;

	if (!vma)
		return NULL;
	pages = (end - call->addr) >> PAGE_SHIFT;
	if (upm_vma_refused(vma, &reason)) {
		upm_call_skip(call, reason, pages);
		call->addr = end;
		return NULL;
	}
	*nr = min_t(unsigned long, pages, READ_ONCE(upm_knobs.batch_pages));
	return vma;
}

/*
 * None without an anon_vma was merged (merge.c). A VMA may have become secret, or armed,
 * after it was.
 */
bool upm_vma_may_hold_merged(struct vm_area_struct *vma)
{
	enum upm_skip reason;

	if (!vma->anon_vma)
		return false;
	return !upm_vma_refused(vma, &reason) || reason == UPM_SKIP_UFFD ||
	       reason == UPM_SKIP_SECRET;
}

/*
 * References on all processes that run now, *@nr of them, or NULL without memory. Of each
 * it is a thread that has not let go of the memory: the first one may be gone.
 */
struct task_struct **upm_tasks_get(unsigned int *nr)
{
	struct task_struct **tasks, *p, *t;
	unsigned int room = 64;

	rcu_read_lock();
	for_each_process(p)
		room++;
	rcu_read_unlock();
	tasks = kvmalloc_array(room, sizeof(*tasks), GFP_KERNEL);
	if (!tasks)
		return NULL;
	*nr = 0;
	rcu_read_lock();
	for_each_process(p) {
		if (*nr == room)
			break;	/* the next pass finds the rest */
		for_each_thread(p, t) {
			if (!READ_ONCE(t->mm))
				continue;
			tasks[(*nr)++] = get_task_struct(t);
			break;
		}
	}
	rcu_read_unlock();
	return tasks;
}
