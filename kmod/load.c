// SPDX-License-Identifier: GPL-2.0-only
/*
 * Loading: a whole pread(2), whose pages come to be shared where the destination is
 * empty. So nothing is duplicated first: no page is allocated, frozen or freed for
 * content that is known.
 *
 * DOC: why a load is a read
 *
 * The file is read into pages of the call's own (the bounce), by the same function and
 * so with the same checks, locks and updates as by read(2). Each window's bytes are
 * read once, and what the program gets is these bytes: a shared page that was compared
 * with them, a bounce page that became the shared page, or a copy to the destination
 * as by read(2). So what the file holds meanwhile, and what was known of it before, is
 * of no matter. The bounce is the call's own, not that of the open device: a page of
 * it may become the shared page, and is charged then to who made it.
 *
 * What a thread of the program writes to the destination meanwhile comes before or
 * after the load's own bytes, as with read(2): a page that it made present is not
 * filled (fill.c), and gets the bytes by a copy.
 *
 * DOC: what is held while a load waits
 *
 * Reading the file may take for ever (a network, a program that serves it), and so may
 * a fault on the destination (userfaultfd, a file mapping). Then the call holds no lock
 * and no shared page: the finder rests, and a page that could not be filled is copied
 * to the bounce before its bytes go to the program. Only the bounce and the spare
 * pages, at most 2 * UPM_FILL_MAX of them, and references on file and domain are held.
 *
 * Head and tail, of which the load fills only a part, are copied when the pages beside
 * them are mapped: a fault on them then finds a page table, and brings no huge page in
 * whose place nothing could be shared.
 */
#include <linux/bitmap.h>
#include <linux/bvec.h>
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/sched/xacct.h>
#include <linux/slab.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>
#include <linux/uio.h>

#include "compat/compat.h"
#include "trace.h"
#include "upm.h"

/* One load; the lower part is that of a window, which is worked on as a whole. */
struct load {
	struct upm_call *call;	/* addr: of the next byte; end: behind the last one */
	struct file *file;
	loff_t offset;		/* in the file, of the byte for call->addr */
	size_t copied;
	struct upm_finder finder;
	unsigned int spares;	/* to have at the next miss */
	unsigned int nr_bounce;
	struct page *bounce[UPM_FILL_MAX];

	unsigned long first;	/* address of page 0 */
	unsigned int nr;
	size_t got;		/* bytes that were read */
	DECLARE_BITMAP(empty, UPM_FILL_MAX);
	DECLARE_BITMAP(filled, UPM_FILL_MAX);
	struct upm_verdict page[UPM_FILL_MAX];
	struct page *shared[UPM_FILL_MAX];
	struct bio_vec bvec[UPM_FILL_MAX];
};

static unsigned long window_end(const struct load *l)
{
	return min(l->call->end, l->first + l->nr * PAGE_SIZE);
}

/* Returns true if page @i of the window is wholly among the bytes that were read. */
static bool is_whole(const struct load *l, unsigned int i)
{
	unsigned long addr = l->first + i * PAGE_SIZE;

	return addr >= l->call->addr &&
	       addr + PAGE_SIZE <= l->call->addr + l->got;
}

static bool is_shared(const struct load *l, unsigned int i)
{
	return l->page[i].state == UPM_FOUND_KNOWN ||
	       l->page[i].state == UPM_FOUND_NEW;
}

/* ---- look ---------------------------------------------------------------- */

/* The window ends where its VMA does, or the hole that it lies in. */
static void look_at_vma(struct load *l)
{
	struct vm_area_struct *vma = find_vma(l->call->mm, l->first);
	enum upm_skip reason = UPM_SKIP_UNMAPPED;
	unsigned long stop = ULONG_MAX;
	unsigned int i;

	bitmap_zero(l->empty, UPM_FILL_MAX);
	if (vma)
		stop = vma->vm_start > l->first ? vma->vm_start : vma->vm_end;
	l->nr = min_t(unsigned long, l->nr, (stop - l->first) >> PAGE_SHIFT);
	if (vma && vma->vm_start <= l->first &&
	    !upm_fill_refused(vma, &reason)) {
		reason = UPM_SKIP_PRESENT;
		upm_scan_empty(l->call->mm, l->first, l->nr, l->empty);
	}
	for (i = 0; i < l->nr; i++)
		l->page[i] = upm_page_left(reason);
}

/* Which pages of the next window are empty, as far as one can tell now. */
static int window_look(struct load *l)
{
	struct upm_call *call = l->call;
	int err;

	l->got = 0;
	l->first = call->addr & PAGE_MASK;
	l->nr = min3(UPM_FILL_MAX, READ_ONCE(upm_knobs.batch_pages),
		     (unsigned int)min_t(u64, UPM_FILL_MAX,
					 DIV_ROUND_UP_ULL(call->end - l->first,
							  PAGE_SIZE)));
	if (mmap_read_lock_killable(call->mm))
		return -EINTR;
	err = upm_call_stop(call, true);
	if (!err)
		look_at_vma(l);
	mmap_read_unlock(call->mm);
	return err;
}

/* ---- read ---------------------------------------------------------------- */

/* As many pages as the window has, or as can be had. */
static int bounce_fill(struct load *l)
{
	struct page *page;

	while (l->nr_bounce < l->nr) {
		page = upm_finder_page(&l->finder);
		if (!page)
			break;
		l->bounce[l->nr_bounce++] = page;
	}
	l->nr = min(l->nr, l->nr_bounce);
	return l->nr ? 0 : -ENOMEM;
}

/* Bytes that were read, less than asked for at the end of the file; or -errno. */
static ssize_t bounce_read(struct load *l, size_t want)
{
	const unsigned int head = offset_in_page(l->call->addr);
	struct iov_iter iter;
	size_t got = 0;
	unsigned int i;
	ssize_t n;

	for (i = 0; i < l->nr; i++)
		bvec_set_page(&l->bvec[i], l->bounce[i],
			      PAGE_SIZE - (i ? 0 : head), i ? 0 : head);
	iov_iter_bvec(&iter, READ, l->bvec, l->nr, want);
	do {
		n = vfs_iter_read(l->file, &iter, &l->offset, 0);
		if (n > 0)
			got += n;
	} while (n > 0 && got < want);
	add_rchar(current, got);
	return got ? got : n;
}

static int window_read(struct load *l)
{
	int err = bounce_fill(l);
	ssize_t got;

	if (err)
		return err;
	got = bounce_read(l, window_end(l) - l->call->addr);
	if (got < 0)
		return got;
	l->got = got;
	return 0;
}

/* ---- find ---------------------------------------------------------------- */

/* Nothing is locked, so spare pages can be had as they are needed. */
static struct upm_verdict find_page(struct load *l, unsigned int i)
{
	struct upm_verdict v;

	for (;;) {
		v = upm_find_or_give(&l->finder, &l->bounce[i], &l->shared[i]);
		if (v.state != UPM_FOUND_LATER)
			return v;
		l->finder.want_spare = min(l->spares, l->nr - i);
		l->spares = min(2 * l->spares, UPM_FILL_MAX);
		upm_finder_refill(&l->finder);
	}
}

static void window_find(struct load *l)
{
	unsigned int i;

	bitmap_zero(l->filled, UPM_FILL_MAX);
	upm_finder_resume(&l->finder);
	for_each_set_bit(i, l->empty, l->nr) {
		if (!is_whole(l, i))
			continue;
		l->page[i] = find_page(l, i);
		if (is_shared(l, i))
			__set_bit(i, l->filled);
	}
	upm_finder_rest(&l->finder);
	atomic64_add(l->finder.successors, &upm_totals.successors);
	l->finder.successors = 0;
}

/* ---- map ----------------------------------------------------------------- */

static void map_locked(struct load *l)
{
	struct upm_call *call = l->call;
	struct vm_area_struct *vma;
	enum upm_skip reason;

	vma = upm_call_stop(call, true) ? NULL : find_vma(call->mm, l->first);
	if (vma && vma->vm_start <= l->first &&
	    vma->vm_end >= l->first + l->nr * PAGE_SIZE &&
	    !upm_fill_refused(vma, &reason))
		upm_fill(vma, l->first, l->nr, l->shared, l->filled);
	else
		bitmap_zero(l->filled, UPM_FILL_MAX);
}

static void window_map(struct load *l)
{
	struct mm_struct *mm = l->call->mm;
	u64 start, locked_ns;

	if (bitmap_empty(l->filled, l->nr))
		return;
	if (mmap_write_lock_killable(mm)) {
		bitmap_zero(l->filled, UPM_FILL_MAX);
		return;
	}
	start = ktime_get_ns();
	map_locked(l);
	locked_ns = ktime_get_ns() - start;
	mmap_write_unlock(mm);
	atomic64_inc(&upm_totals.batches);
	atomic64_add(locked_ns, &upm_totals.lock_ns);
	upm_totals_max(&upm_totals.lock_ns_max, locked_ns);
	trace_upm_batch(l->first, l->nr, locked_ns);
}

/* The bytes of page @i are only in the shared page yet: get them back. */
static int bounce_restore(struct load *l, unsigned int i)
{
	const void *bytes = kmap_local_page(l->shared[i]);
	bool readable = upm_page_readable(l->shared[i], bytes);

	kunmap_local(bytes);
	if (!readable)
		return -EIO;
	copy_highpage(l->bounce[i], l->shared[i]);
	return 0;
}

/*
 * Let go of the shared pages. One that was not mapped has left its bytes only to itself
 * if it had been a bounce page; but then there is another one in its place. Returns
 * -EIO if that can be read no more: then the window ends before it.
 */
static int window_settle(struct load *l)
{
	unsigned int i;
	int err = 0;

	for_each_set_bit(i, l->empty, l->nr) {
		if (!is_shared(l, i))
			continue;
		if (!test_bit(i, l->filled)) {
			l->page[i] = upm_page_left(UPM_SKIP_BUSY);
			if (!err)
				err = bounce_restore(l, i);
			if (err)
				l->got = min(l->got, l->first + i * PAGE_SIZE -
						     l->call->addr);
		}
		put_page(l->shared[i]);
	}
	return err;
}

/* ---- copy ---------------------------------------------------------------- */

/* The bytes of page @i in [@from, @to) go to the program. Returns how many did not. */
static unsigned long copy_page_out(struct load *l, unsigned int i,
				   unsigned long from, unsigned long to)
{
	const char *bytes = kmap_local_page(l->bounce[i]);
	unsigned long left = copy_to_user((void __user *)from,
					  bytes + offset_in_page(from),
					  to - from);

	kunmap_local(bytes);
	l->copied += to - from - left;
	return left;
}

/* What did not come to share gets its bytes as by read(2). */
static int window_copy(struct load *l)
{
	const unsigned long end = l->call->addr + l->got;
	unsigned long from, to, left = 0;
	unsigned int i;

	for (i = 0; i < l->nr && !left; i++) {
		from = max(l->first + i * PAGE_SIZE, l->call->addr);
		to = min(l->first + (i + 1) * PAGE_SIZE, end);
		if (from >= to)
			continue;
		if (!test_bit(i, l->filled) &&
		    l->page[i].state != UPM_FOUND_ZERO)
			left = copy_page_out(l, i, from, to);
		if (to - from == PAGE_SIZE && !left)
			upm_call_count(l->call, &l->page[i], 1);
		l->call->addr = to - left;
	}
	return left ? -EFAULT : 0;
}

/* ---- the call ------------------------------------------------------------ */

/* Returns 0 to go on, 1 at the end of the file, or -errno. */
static int window_run(struct load *l)
{
	unsigned long end;
	int settled, err = window_look(l);

	if (!err)
		err = window_read(l);
	if (err || !l->got)
		return err ? err : 1;
	end = window_end(l);
	window_find(l);
	window_map(l);
	settled = window_settle(l);
	err = window_copy(l);
	if (!err)
		err = settled;
	if (!err && l->call->addr < end)
		err = 1;
	return err;
}

static void load_release(struct load *l)
{
	upm_finder_release(&l->finder);
	while (l->nr_bounce)
		__free_page(l->bounce[--l->nr_bounce]);
	kvfree(l);
}

/**
 * upm_load() - read a file into [call->addr, call->end)
 * @call: of the caller's own mm; domain. Counts are added to, call->addr moves on.
 * @file: can be read at an offset, by its read_iter, and not past the page cache
 * @arg: offset and length are checked; done and copied are written
 *
 * Return: 0 if anything was read, or at the end of the file. Else -ENOMEM, -EFAULT,
 * what upm_call_stop() says, or what a read of the file does.
 */
int upm_load(struct upm_call *call, struct file *file, struct upm_ioc_load *arg)
{
	struct load *l = kvzalloc(sizeof(*l), GFP_KERNEL_ACCOUNT);
	int err = 0;

	if (!l)
		return -ENOMEM;
	l->call = call;
	l->file = file;
	l->offset = arg->offset;
	l->spares = 1;
	upm_finder_init(&l->finder, call->dom, call->mm);
	inc_syscr(current);
	while (call->addr < call->end && !err) {
		err = window_run(l);
		cond_resched();
	}
	arg->done = call->addr - arg->addr;
	arg->copied = l->copied;
	load_release(l);
	return err > 0 || arg->done ? 0 : err;
}
