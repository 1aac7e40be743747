// SPDX-License-Identifier: GPL-2.0-only
/*
 * Merging: one batch after the other of a range.
 *
 * DOC: why no byte is lost
 *
 * 1. Under the mmap_lock for writing, with the VMA write-locked too where the
 *    kernel has VMA locks, no fault, no system call that takes either, and no
 *    munmap or fork of this address space runs. The VMA lock comes before the
 *    scan, so that no fault makes a private copy of a page that the scan took for
 *    the file's; and so before the freeze, since a thread that faults on a frozen
 *    page sleeps on its folio lock, which we hold, with the VMA lock held.
 * 2. migrate_vma_setup() locks each page, isolates it from the LRU, replaces
 *    every PTE that maps it, in whatever process, by a migration entry, flushes
 *    the TLBs, calls the MMU notifiers, and gives up pages with references
 *    beyond their mappings (O_DIRECT, RDMA, vfio). Nobody can write to what is
 *    left, and nobody can pin it: a lockless pin checks the PTE again.
 * 3. We compare or copy these frozen bytes, zap the range, which holds nothing
 *    but the migration entries just made, and map the shared pages read-only:
 *    vm_page_prot of a private mapping has no write permission. No page table
 *    is allocated for that, since the zapped one stays.
 * 4. migrate_vma_finalize() gives every page that was not replaced back to all
 *    its mappings, ours included. A replaced one has lost our mapping and keeps
 *    those of other processes (after fork).
 *
 * A write to a shared page takes the ordinary copy-on-write fault. The page is
 * not anonymous, so the kernel never reuses it in place.
 *
 * DOC: what else could look at the range meanwhile
 *
 * Truncation of a mapped file takes neither lock: it may zap migration entries,
 * which the zap does too, and waits for the folio lock before its second pass,
 * which then removes what we mapped. When a file drops pages without being
 * truncated (hole punch, invalidation), the kernel spares the anonymous pages of
 * its private mappings, and takes a shared page for one of the file: the next
 * fault reads the file. That is right for pages that were the file's, so only
 * clean pages of file mappings merge (scan.c). khugepaged frees page tables of file
 * mappings that it believes to be empty, but only where the VMA has no anon_vma:
 * so batch_prepare() makes every file VMA have one before a page is mapped that
 * the page cache knows nothing of.
 *
 * VM_MIXEDMAP must be off for migrate_vma_setup(), and on for vm_insert_pages()
 * and ever after, since it makes fork copy the PTEs and keeps KSM, khugepaged
 * and NUMA balancing away. It is off only under the lock, and only for a range
 * that holds no PTE that needs it (upm_scan.foreign_special).
 */
#include <linux/magic.h>
#include <linux/migrate.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/timekeeping.h>

#include "compat/compat.h"
#include "trace.h"
#include "upm.h"

/*
 * What a VMA with shared pages carries. VM_SOFTDIRTY, since a shared PTE has
 * lost the soft-dirty bit of the page that it replaced: who tracks writes
 * (CRIU) shall see too many rather than too few.
 */
#define UPM_VM_MERGED (VM_MIXEDMAP | VM_SOFTDIRTY)

/* One batch; kept over the batches of a call. */
struct batch {
	struct upm_call *call;
	struct vm_area_struct *vma;
	unsigned long addr;	/* of page 0 */
	unsigned int nr;

	struct upm_finder finder;
	struct upm_scan scan;	/* and from there on the state of each page */
	unsigned long src[UPM_BATCH_MAX];
	unsigned long dst[UPM_BATCH_MAX];
	struct page *pages[UPM_BATCH_MAX];

	u64 mark;		/* start of the running phase */
	u64 phase_ns[UPM_PHASE_NR];
};

static void phase_end(struct batch *b, enum upm_phase phase)
{
	u64 now = ktime_get_ns();

	b->phase_ns[phase] += now - b->mark;
	b->mark = now;
}

void upm_call_skip(struct upm_call *call, int reason, unsigned long pages)
{
	call->counts.pages += pages;
	call->counts.skipped[reason] += pages;
}

/* ---- find --------------------------------------------------------------- */

/* Decide on every frozen page. Cuts the batch off where spare pages ran out. */
static void batch_find(struct batch *b, unsigned int first, unsigned int last)
{
	bool anon = vma_is_anonymous(b->vma);
	unsigned int i;

	for (i = first; i <= last; i++) {
		unsigned long src = b->src[i - first];
		struct page *page = migrate_pfn_to_page(src);
		u8 *state = &b->scan.state[i];

		if (*state != UPM_PAGE_CANDIDATE)
			continue;
		if (page)
			*state = upm_find(&b->finder, page, anon, &b->pages[i]);
		else if (src & MIGRATE_PFN_MIGRATE)
			*state = UPM_FOUND_ZEROED;
		else
			*state = UPM_SKIP_BUSY;
		if (*state == UPM_FOUND_LATER) {
			b->nr = i;
			break;
		}
	}
}

static bool shares(const struct batch *b, unsigned int i)
{
	return b->scan.state[i] == UPM_FOUND_KNOWN ||
	       b->scan.state[i] == UPM_FOUND_NEW;
}

static bool replaces(const struct batch *b, unsigned int i)
{
	return shares(b, i) || b->scan.state[i] == UPM_FOUND_ZERO;
}

/* ---- map ---------------------------------------------------------------- */

/*
 * The range has lost its pages and did not get the shared ones. It cannot
 * happen: the PTEs were ours and the page table is there. Should it happen, the
 * program must not go on and read zeros. It is dead before it can run again,
 * since we still hold its locks.
 */
static void fail_stop(struct batch *b, int err)
{
	WARN_ONCE(1, "upm: cannot map shared pages: %d\n", err);
	send_sig(SIGKILL, b->call->task, 1);
}

static void map_run(struct batch *b, unsigned int from, unsigned int to)
{
	unsigned long addr = b->addr + from * PAGE_SIZE;
	unsigned long left;
	unsigned int i, j;
	int err;

	upm_zap_range(b->vma, addr, (to - from) * PAGE_SIZE);
	for (i = from; i < to; i = j) {
		for (j = i; j < to && shares(b, j); j++)
			;
		left = j - i;
		if (!left) {
			j++;
			continue;
		}
		err = vm_insert_pages(b->vma, b->addr + i * PAGE_SIZE,
				      &b->pages[i], &left);
		if (err || left)
			fail_stop(b, err);
	}
}

/* Returns whether a shared page was mapped. */
static bool batch_map(struct batch *b)
{
	bool shared = false;
	unsigned int i, j;

	for (i = 0; i < b->nr; i = j) {
		for (j = i; j < b->nr && replaces(b, j); j++)
			shared |= shares(b, j);
		if (j == i)
			j++;
		else
			map_run(b, i, j);
	}
	return shared;
}

/* ---- finish ------------------------------------------------------------- */

/*
 * A replaced page that nobody else maps needs no way back to the LRU: free it
 * here. Its PTE was writable in a private mapping, so the page was anonymous and
 * exclusive: no other PTE, and so no other migration entry, refers to it. It is
 * locked and isolated, and one reference is left, that of the isolation: no pin
 * and no swap cache either.
 */
static bool free_replaced(struct page *page, unsigned long src)
{
	struct folio *folio = page_folio(page);

	if (!(src & MIGRATE_PFN_WRITE) || !folio_test_anon(folio) ||
	    folio_test_ksm(folio) || folio_ref_count(folio) != 1)
		return false;
	folio_clear_active(folio);
	folio_clear_unevictable(folio);
	folio_unlock(folio);
	folio_put(folio);
	return true;
}

static void batch_finish(struct batch *b, struct migrate_vma *mig,
			 unsigned int first, unsigned int last)
{
	unsigned int i;

	migrate_vma_pages(mig);
	for (i = first; i <= last; i++) {
		unsigned long src = b->src[i - first];
		struct page *page = migrate_pfn_to_page(src);

		if (page && replaces(b, i) && free_replaced(page, src))
			b->src[i - first] = 0;
	}
	migrate_vma_finalize(mig);
	for (i = first; i <= last; i++)
		if (shares(b, i))
			put_page(b->pages[i]);
}

/* ---- the batch ---------------------------------------------------------- */

/* Leave every candidate, and what might become one, as it is, for @reason. */
static void batch_refuse(struct batch *b, int reason)
{
	unsigned int i;

	for (i = 0; i < b->nr; i++)
		if (b->scan.state[i] == UPM_PAGE_CANDIDATE ||
		    b->scan.state[i] == UPM_PAGE_ORPHAN)
			b->scan.state[i] = reason;
	b->scan.first = b->nr;
}

/*
 * Freeze the candidates, find their shared pages, map, and let go. The mmap
 * lock is held for writing.
 */
static void batch_replace(struct batch *b)
{
	unsigned int first = b->scan.first, last = b->scan.last;
	struct vm_area_struct *vma = b->vma;
	bool mixed = vma->vm_flags & VM_MIXEDMAP;
	struct migrate_vma mig = {
		.vma = vma,
		.start = b->addr + first * PAGE_SIZE,
		.end = b->addr + (last + 1) * PAGE_SIZE,
		.src = b->src,
		.dst = b->dst,
		.flags = MIGRATE_VMA_SELECT_SYSTEM,
	};

	upm_vm_flags_clear(vma, VM_MIXEDMAP);
	if (migrate_vma_setup(&mig)) {
		batch_refuse(b, UPM_SKIP_BUSY);
		if (mixed)
			upm_vm_flags_set(vma, VM_MIXEDMAP);
		return;
	}
	phase_end(b, UPM_PHASE_FREEZE);

	batch_find(b, first, last);
	phase_end(b, UPM_PHASE_FIND);

	upm_vm_flags_set(vma, VM_MIXEDMAP);
	mixed |= batch_map(b);
	phase_end(b, UPM_PHASE_MAP);

	/* Off again: a page that comes back to an mlocked VMA is mlocked. */
	upm_vm_flags_clear(vma, VM_MIXEDMAP);
	batch_finish(b, &mig, first, last);
	if (mixed)
		upm_vm_flags_set(vma, UPM_VM_MERGED);
	phase_end(b, UPM_PHASE_FINISH);
}

/*
 * Would a fault on this VMA wait for a program of which the caller knows nothing?
 * Its pages are there, so none reads the file but by a race, which the program may
 * provoke, and it may never answer: an agent would hang, with the lock held.
 */
static bool fault_may_hang(const struct batch *b)
{
	const struct file *file = b->vma->vm_file;

	return file && b->call->mm != current->mm &&
	       file_inode(file)->i_sb->s_magic == FUSE_SUPER_MAGIC;
}

/*
 * A write fault, as by the program, on page @i of the batch. FOLL_NOWAIT: the
 * mmap_lock is held for writing, no time to wait for a page to be read.
 */
static void make_private(struct batch *b, unsigned int i)
{
	upm_gup_remote(b->call->mm, b->addr + i * PAGE_SIZE, 1,
		       FOLL_WRITE | FOLL_FORCE | FOLL_NOWAIT, NULL);
}

/* Page @i of a file mapping is the file's own again: drop it and read it. */
static void make_clean(struct batch *b, unsigned int i)
{
	unsigned long addr = b->addr + i * PAGE_SIZE;
	bool mixed = b->vma->vm_flags & VM_MIXEDMAP;

	upm_vm_flags_set(b->vma, VM_MIXEDMAP);
	upm_zap_range(b->vma, addr, PAGE_SIZE);
	if (!mixed)
		upm_vm_flags_clear(b->vma, VM_MIXEDMAP);
	upm_gup_remote(b->call->mm, addr, 1, FOLL_FORCE | FOLL_NOWAIT, NULL);
}

/*
 * A write fault on clean page @i gives a file VMA its anon_vma; the page becomes the
 * file's again. Without VM_WRITE the private copy is read-only: a thread that wrote
 * to it in between would not fault, and its bytes would go with the copy.
 */
static void make_anon_vma(struct batch *b, unsigned int i)
{
	unsigned long writable = b->vma->vm_flags & VM_WRITE;

	upm_vm_flags_clear(b->vma, VM_WRITE);
	make_private(b, i);
	make_clean(b, i);
	upm_vm_flags_set(b->vma, writable);
}

/*
 * Make candidates of what cannot be merged as it is: orphans, and the pages of a
 * file VMA that has no anon_vma (see the head of this file). What fails shows in the
 * new scan.
 */
static void batch_prepare(struct batch *b)
{
	struct vm_area_struct *vma = b->vma;
	bool bare_file = vma->vm_file && !vma->anon_vma;
	unsigned int i;

	if (!b->scan.orphans && (!bare_file || b->scan.first >= b->nr))
		return;
	if (fault_may_hang(b)) {
		batch_refuse(b, UPM_SKIP_FILE);
		return;
	}
	if (bare_file && b->scan.first < b->nr)
		make_anon_vma(b, b->scan.first);
	for (i = 0; i < b->nr; i++) {
		if (b->scan.state[i] != UPM_PAGE_ORPHAN)
			continue;
		if (vma->vm_file)
			make_clean(b, i);
		else
			make_private(b, i);
	}
	upm_scan_range(vma, b->addr, b->nr, &b->scan);
	if (vma->vm_file && !vma->anon_vma)
		batch_refuse(b, UPM_SKIP_NOMEM);
}

static void batch_account(struct batch *b)
{
	struct upm_ioc_counts *c = &b->call->counts;
	unsigned int i;

	c->pages += b->nr;
	for (i = 0; i < b->nr; i++) {
		switch (b->scan.state[i]) {
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
			c->skipped[b->scan.state[i]]++;
		}
	}
	b->call->addr = b->addr + b->nr * PAGE_SIZE;
}

/*
 * The VMA that holds call->addr, and in *@nr how many pages of the call lie in
 * it, at most @max; or NULL, with the pages up to the next VMA counted as
 * unmapped, or those of a VMA that cannot be merged as skipped.
 */
struct vm_area_struct *upm_call_vma(struct upm_call *call, unsigned int *nr,
				    unsigned int max)
{
	struct vm_area_struct *vma = find_vma(call->mm, call->addr);
	unsigned long end = call->end;
	int refusal;

	if (!vma || vma->vm_start > call->addr) {
		if (vma && vma->vm_start < end)
			end = vma->vm_start;
		upm_call_skip(call, UPM_SKIP_UNMAPPED,
			      (end - call->addr) >> PAGE_SHIFT);
		call->addr = end;
		return NULL;
	}
	if (vma->vm_end < end)
		end = vma->vm_end;
	refusal = upm_vma_refusal(vma);
	if (refusal >= 0) {
		upm_call_skip(call, refusal, (end - call->addr) >> PAGE_SHIFT);
		call->addr = end;
		return NULL;
	}
	*nr = min_t(unsigned long, (end - call->addr) >> PAGE_SHIFT, max);
	return vma;
}

static void batch_totals(struct batch *b, u64 locked_ns)
{
	unsigned int i;

	for (i = 0; i < UPM_PHASE_NR; i++) {
		atomic64_add(b->phase_ns[i], &upm_totals.phase_ns[i]);
		b->phase_ns[i] = 0;
	}
	atomic64_add(b->finder.predicted, &upm_totals.predicted);
	b->finder.predicted = 0;
	atomic64_inc(&upm_totals.batches);
	atomic64_add(locked_ns, &upm_totals.lock_ns);
	upm_totals_max(&upm_totals.lock_ns_max, locked_ns);
}

static int batch_run(struct batch *b)
{
	struct upm_call *call = b->call;
	struct mm_struct *mm = call->mm;
	u64 start, locked_ns;

	upm_finder_refill(&b->finder);
	if (mmap_write_lock_killable(mm))
		return -EINTR;
	start = ktime_get_ns();
	b->mark = start;
	b->vma = upm_call_vma(call, &b->nr, READ_ONCE(upm_knobs.batch_pages));
	if (!b->vma)
		goto out;
	b->addr = call->addr;
	upm_vma_start_write(b->vma);
	upm_scan_range(b->vma, b->addr, b->nr, &b->scan);
	phase_end(b, UPM_PHASE_SCAN);

	if (b->scan.foreign_special && (b->vma->vm_flags & VM_MIXEDMAP))
		batch_refuse(b, UPM_SKIP_SPECIAL);
	else
		batch_prepare(b);
	if (b->scan.first < b->nr)
		batch_replace(b);
	batch_account(b);
out:
	locked_ns = ktime_get_ns() - start;
	mmap_write_unlock(mm);
	batch_totals(b, locked_ns);
	trace_upm_batch(b->addr, b->nr, locked_ns);
	return 0;
}

/**
 * upm_merge() - merge [call->addr, call->end)
 * @call: mm, with a reference on its users; task, for the fail-stop; domain;
 *	counts are added to, call->addr moves on.
 *
 * Takes and drops the mmap_lock for each batch.
 *
 * Return: 0, -EINTR on a fatal signal, -ENOMEM.
 */
int upm_merge(struct upm_call *call)
{
	struct batch *b = kvzalloc(sizeof(*b), GFP_KERNEL_ACCOUNT);
	int err = 0;

	if (!b)
		return -ENOMEM;
	b->call = call;
	upm_finder_init(&b->finder, call->dom, call->mm);
	while (call->addr < call->end && !err) {
		if (fatal_signal_pending(current))
			err = -EINTR;
		else
			err = batch_run(b);
		cond_resched();
	}
	upm_finder_release(&b->finder);
	kvfree(b);
	return err;
}
