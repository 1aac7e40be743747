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
 *    those of other processes (after fork). Nothing migrates, so
 *    migrate_vma_pages() has nothing to do.
 *
 * A write to a shared page takes the ordinary copy-on-write fault. The page is
 * not anonymous, so the kernel never reuses it in place.
 *
 * model/freeze.pml says this again, for a model checker.
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
 * so upm_prepare() makes every file VMA have one before a page is mapped that
 * the page cache knows nothing of.
 *
 * DOC: VM_MIXEDMAP is on while pages are mapped, and off again
 *
 * It must be off for migrate_vma_setup() and on for vm_insert_pages(). Both is so under
 * the locks, and for a range that holds no PTE that needs it (upm_scan.foreign_special).
 * Then it is off again, so that mlock, munlock, userfaultfd, MADV_DODUMP, mremap, KSM and
 * huge pages treat the rest of the mapping as before, and it joins with its neighbours.
 * Nothing relies on it:
 *
 * - Fork copies the PTEs of every VMA with an anon_vma, and each VMA has one before a
 *   shared page is mapped: by the page that was replaced, or by upm_prepare() or upm_fill().
 * - A shared page is not anonymous and not on the LRU, and has a reference of the index.
 *   KSM, reclaim and MADV_FREE look at the first, MADV_PAGEOUT and compaction at the
 *   second, NUMA balancing and can_change_pte_writable() at one of them.
 * - khugepaged leaves a table with a page that is not on the LRU. A shared page that was
 *   mapped between its look and its lock is refused by the count, an orphan since it
 *   cannot be isolated. But a kernel with CONFIG_DEBUG_VM asserts before these two checks
 *   that such a page is anonymous: there the flag stays on (UPM_VM_MERGED).
 * - mlock may mark a shared page as mlocked, with no further effect, and munlock or the
 *   unmap of it takes the mark off, maybe late. So the last reference is dropped by
 *   put_page(), which takes it off, too, and not by __free_page(), which calls it bad.
 */
#include <linux/highmem.h>
#include <linux/lockdep.h>
#include <linux/migrate.h>
#include <linux/mmap_lock.h>
#include <linux/preempt.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/timekeeping.h>

#ifdef CONFIG_FAULT_INJECTION
#include <linux/fault-inject.h>
#endif

#include "compat/compat.h"
#include "trace.h"
#include "upm.h"

/* One batch; kept over the batches of a call. */
struct batch {
	struct upm_call *call;
	struct vm_area_struct *vma;
	unsigned long addr;	/* of page 0 */
	unsigned int nr;

	struct upm_finder finder;
	struct upm_scan scan;	/* and from there on the state of each page */
	struct migrate_vma mig;	/* the freeze */
	bool mixed;		/* VM_MIXEDMAP was on before it */
	unsigned long src[UPM_BATCH_MAX];
	unsigned long dst[UPM_BATCH_MAX];
	struct page *pages[UPM_BATCH_MAX];
	unsigned int nr_gone;	/* of these, at the end: to be freed */

	bool huge;		/* a huge page, to be frozen as one (huge.c) */
	unsigned long split;	/* address of one that is not, or 0 */
	struct page *whole;	/* it is frozen: its first page, else NULL */

	u64 mark;		/* start of the running phase */
	u64 phase_ns[UPM_PHASE_NR];
};

static void phase_end(struct batch *b, enum upm_phase phase)
{
	u64 now = ktime_get_ns();

	b->phase_ns[phase] += now - b->mark;
	b->mark = now;
}

/* ---- find --------------------------------------------------------------- */

/* What migrate_vma_setup() says of page @i. */
static unsigned long frozen_src(const struct batch *b, unsigned int i)
{
	return b->src[b->whole ? 0 : i - b->scan.first];
}

/* Page @i, if it is frozen, or NULL. */
static struct page *frozen_page(const struct batch *b, unsigned int i)
{
	return b->whole ? b->whole + i :
			  migrate_pfn_to_page(frozen_src(b, i));
}

static bool shares(const struct batch *b, unsigned int i)
{
	return b->scan.page[i].state == UPM_FOUND_KNOWN ||
	       b->scan.page[i].state == UPM_FOUND_NEW;
}

static bool replaces(const struct batch *b, unsigned int i)
{
	return shares(b, i) || b->scan.page[i].state == UPM_FOUND_ZERO;
}

/*
 * Decide on every frozen page. Cuts the batch off where spare pages ran out, and that of a
 * huge page where a page is not to be replaced.
 */
static void batch_find(struct batch *b, unsigned int first, unsigned int last)
{
	bool anon = vma_is_anonymous(b->vma);
	unsigned int i;

	b->finder.known = b->whole;
	for (i = first; i <= last; i++) {
		struct page *page = frozen_page(b, i);
		struct upm_verdict *v = &b->scan.page[i];

		if (v->state != UPM_PAGE_CANDIDATE)
			continue;
		if (page)
			*v = upm_find(&b->finder, page, anon, &b->pages[i]);
		else if (frozen_src(b, i) & MIGRATE_PFN_MIGRATE)
			*v = upm_page_is(UPM_FOUND_ZEROED);
		else
			*v = upm_page_left(UPM_SKIP_BUSY);
		if (v->state == UPM_FOUND_LATER ||
		    (b->whole && !replaces(b, i))) {
			b->nr = i;
			break;
		}
	}
	b->finder.known = false;
}

/* Page @i stays as it is: let go of the shared page that was found for it. */
static void leave_page(struct batch *b, unsigned int i)
{
	upm_finder_keep(&b->finder);
	if (shares(b, i))
		put_page(b->pages[i]);
	b->scan.page[i] = upm_page_left(UPM_SKIP_BUSY);
}

/*
 * A huge page goes as a whole or not at all (huge.c). If it stays, nothing was done yet,
 * and it is the next batch's again, which has it split.
 */
static void batch_keep_whole(struct batch *b)
{
	unsigned int i;

	if (b->nr == b->scan.nr)
		return;
	for (i = 0; i < b->scan.nr; i++)
		leave_page(b, i);
	b->nr = 0;
	b->split = b->addr;
}

/* ---- map ---------------------------------------------------------------- */

/*
 * The range has lost page @i, which is still frozen, and did not get the shared one. That
 * cannot happen: the PTEs were ours and the page table is there. Should it happen, the
 * program gets its bytes back, in a page of its own, by a fault as it might take itself;
 * in a file mapping by its own next fault, since the page was the file's. That fault may
 * use the last of the memory, and waits for none: see the head of upm.h.
 */
static bool give_back(struct batch *b, unsigned int i)
{
	unsigned int flags;
	struct page *page;
	bool got;

	if (b->vma->vm_file)
		return true;
	flags = memalloc_noreclaim_save();
	got = upm_gup_remote(b->vma->vm_mm, b->addr + i * PAGE_SIZE, 1,
			     FOLL_WRITE | FOLL_FORCE, &page) == 1;
	memalloc_noreclaim_restore(flags);
	if (!got)
		return false;
	copy_highpage(page, frozen_page(b, i));
	put_page(page);
	return true;
}

/*
 * Pages [@from, @to) are in no table, neither old nor new. If that cannot be mended, the
 * program must not go on and read zeros. It is dead before it can run again, since we
 * still hold its locks.
 */
static void unmapped(struct batch *b, unsigned int from, unsigned int to,
		     int err)
{
	unsigned int i;

	pr_warn_once("upm: cannot map shared pages: %d\n", err);
	for (i = from; i < to; i++) {
		if (!give_back(b, i)) {
			WARN_ONCE(1, "upm: a page is lost\n");
			send_sig(SIGKILL, b->call->task, 1);
		}
		leave_page(b, i);
	}
}

#ifdef CONFIG_FAULT_INJECTION
/* For /proc/PID/fail-nth: what cannot fail does. */
static DECLARE_FAULT_ATTR(fail_insert);
#define insert_fails() should_fail(&fail_insert, 1)
#else
#define insert_fails() false
#endif

/* Maps shared pages, and says in *@left how many of them it did not. */
static int insert_shared(struct batch *b, unsigned int i, unsigned long *left)
{
	if (insert_fails())
		return -ENOMEM;
	return vm_insert_pages(b->vma, b->addr + i * PAGE_SIZE, &b->pages[i],
			       left);
}

static void zap_run(struct batch *b, unsigned int from, unsigned int to)
{
	if (b->whole)
		upm_huge_zap(b->vma, b->addr);
	else
		upm_zap_range(b->vma, b->addr + from * PAGE_SIZE,
			      (to - from) * PAGE_SIZE);
}

static void map_run(struct batch *b, unsigned int from, unsigned int to)
{
	unsigned long left;
	unsigned int i, j;
	int err;

	zap_run(b, from, to);
	for (i = from; i < to; i = j) {
		for (j = i; j < to && shares(b, j); j++)
			;
		left = j - i;
		if (!left) {
			j++;
			continue;
		}
		err = insert_shared(b, i, &left);
		if (err || left)
			unmapped(b, j - left, j, err);
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
 * A replaced page, or huge page, that nobody else maps needs no way back to the LRU. Its
 * PTE was writable in a private mapping, so the page was anonymous and exclusive: no other
 * PTE, and so no other migration entry, refers to it. It is locked and isolated, and one
 * reference is left, that of the isolation, which becomes the batch's: no pin and no
 * swap cache either.
 */
static bool take_replaced(struct page *page, unsigned long src)
{
	struct folio *folio = page_folio(page);

	if (!(src & MIGRATE_PFN_WRITE) || !folio_test_anon(folio) ||
	    folio_test_ksm(folio) || folio_ref_count(folio) != 1)
		return false;
	folio_clear_active(folio);
	folio_clear_unevictable(folio);
	folio_unlock(folio);
	return true;
}

static void finish_whole(struct batch *b)
{
	if (b->nr && take_replaced(b->whole, b->src[0])) {
		b->pages[b->nr_gone++] = b->whole;
		b->src[0] = 0;
	}
}

/*
 * Give back what was not replaced, and the references on the shared pages. What is gone
 * for good is left in b->pages, in the place of those that were looked at before.
 */
static void batch_finish(struct batch *b, unsigned int first,
			 unsigned int last)
{
	unsigned int i;

	upm_finder_keep(&b->finder);
	for (i = first; i <= last; i++) {
		unsigned long src = b->src[i - first];
		struct page *page;

		if (shares(b, i))
			put_page(b->pages[i]);
		else if (!replaces(b, i))
			continue;
		if (b->whole)
			continue;
		page = migrate_pfn_to_page(src);
		if (page && take_replaced(page, src)) {
			b->pages[b->nr_gone++] = page;
			b->src[i - first] = 0;
		}
	}
	if (b->whole)
		finish_whole(b);
	migrate_vma_finalize(&b->mig);
}

/* Free the pages that were replaced. No lock is needed for that. */
static void batch_free(struct batch *b)
{
	if (b->nr_gone)
		release_pages(b->pages, b->nr_gone);
	b->nr_gone = 0;
}

/* ---- the batch ---------------------------------------------------------- */

/* Make candidates of what can become one, and see what is left to do. */
static void batch_prepare(struct batch *b)
{
	if (b->scan.foreign_special && (b->vma->vm_flags & VM_MIXEDMAP))
		upm_scan_refuse(&b->scan, UPM_SKIP_SPECIAL);
	else
		upm_prepare(b->vma, b->addr, &b->scan);
	/* Split by now, and so not merged as a whole? */
	b->huge &= b->scan.nr == b->nr && !b->scan.first &&
		   b->scan.last == b->nr - 1;
	b->nr = b->scan.nr;
}

/* Returns true if the candidates were frozen, as many as could be. */
static bool batch_freeze(struct batch *b)
{
	struct vm_area_struct *vma = b->vma;

	b->whole = NULL;
	b->mixed = vma->vm_flags & VM_MIXEDMAP;
	b->mig = (struct migrate_vma){
		.vma = vma,
		.start = b->addr + b->scan.first * PAGE_SIZE,
		.end = b->addr + (b->scan.last + 1) * PAGE_SIZE,
		.src = b->src,
		.dst = b->dst,
		.flags = MIGRATE_VMA_SELECT_SYSTEM |
			 (b->huge ? UPM_MIGRATE_COMPOUND : 0),
	};
	upm_vm_flags_clear(vma, VM_MIXEDMAP);
	if (migrate_vma_setup(&b->mig)) {
		upm_scan_refuse(&b->scan, UPM_SKIP_BUSY);
		if (b->mixed)
			upm_vm_flags_set(vma, VM_MIXEDMAP);
		return false;
	}
	if (b->huge)
		b->whole = upm_huge_frozen(b->src);
	phase_end(b, UPM_PHASE_FREEZE);
	return true;
}

/*
 * Prepare and freeze on one processor. Unmapping a page of an mlocked VMA puts it into a
 * list of the processor, with a reference, and so does a fault on a page of a file.
 * migrate_vma_setup() empties the lists of the processor that it runs on before it counts
 * references; a page in a list of another one would be busy. *@idle is cleared if there
 * was anything to freeze.
 */
static bool batch_catch(struct batch *b, bool *idle)
{
	bool frozen = false;

	migrate_disable();
	batch_prepare(b);
	if (b->scan.first < b->nr) {
		*idle = false;
		frozen = batch_freeze(b);
	}
	migrate_enable();
	return frozen;
}

/* Find the shared pages of what is frozen, map them, and let go. */
static void batch_replace(struct batch *b)
{
	unsigned int first = b->scan.first, last = b->scan.last;
	struct vm_area_struct *vma = b->vma;
	bool shared;

	lockdep_assert_held_write(&vma->vm_mm->mmap_lock);
	batch_find(b, first, last);
	if (b->whole)
		batch_keep_whole(b);
	phase_end(b, UPM_PHASE_FIND);

	upm_vm_flags_set(vma, VM_MIXEDMAP);
	shared = batch_map(b);
	phase_end(b, UPM_PHASE_MAP);

	/* Off again: a page that comes back to an mlocked VMA is mlocked. */
	upm_vm_flags_clear(vma, VM_MIXEDMAP);
	batch_finish(b, first, last);
	if (b->mixed)
		upm_vm_flags_set(vma, VM_MIXEDMAP);
	if (shared)
		upm_vm_flags_set(vma, UPM_VM_MERGED);
	phase_end(b, UPM_PHASE_FINISH);
}

static void batch_account(struct batch *b)
{
	upm_call_count(b->call, b->scan.page, b->nr);
	b->call->addr = b->addr + b->nr * PAGE_SIZE;
}

static void batch_totals(struct batch *b, u64 locked_ns)
{
	unsigned int i;

	for (i = 0; i < UPM_PHASE_NR; i++) {
		atomic64_add(b->phase_ns[i], &upm_totals.phase_ns[i]);
		b->phase_ns[i] = 0;
	}
	atomic64_add(b->finder.successors, &upm_totals.successors);
	b->finder.successors = 0;
	atomic64_inc(&upm_totals.batches);
	atomic64_add(locked_ns, &upm_totals.lock_ns);
	upm_totals_max(&upm_totals.lock_ns_max, locked_ns);
}

/* Merge the next pages. *@idle is set if there was nothing to merge among them. */
static int batch_run(struct batch *b, bool *idle)
{
	struct upm_call *call = b->call;
	struct mm_struct *mm = call->mm;
	u64 start, locked_ns;
	int err;

	b->finder.want_spare = min_t(unsigned long, b->finder.want_spare,
				     (call->end - call->addr) >> PAGE_SHIFT);
	upm_finder_refill(&b->finder);
	if (mmap_write_lock_killable(mm))
		return -EINTR;
	err = upm_call_stop(call, true);
	if (err) {
		mmap_write_unlock(mm);
		return err;
	}
	start = ktime_get_ns();
	b->mark = start;
	*idle = true;
	b->vma = upm_call_mergeable(call, &b->nr);
	if (!b->vma)
		goto out;
	b->addr = call->addr;
	upm_vma_start_write(b->vma);
	b->huge = b->addr != b->split &&
		  upm_huge_next(b->vma, b->addr,
				min(call->end, b->vma->vm_end), &b->nr);
	upm_scan_range(b->vma, b->addr, b->nr, &b->scan);
	phase_end(b, UPM_PHASE_SCAN);

	if (batch_catch(b, idle))
		batch_replace(b);
	batch_account(b);
out:
	locked_ns = ktime_get_ns() - start;
	mmap_write_unlock(mm);
	batch_free(b);
	batch_totals(b, locked_ns);
	trace_upm_batch(b->addr, b->nr, locked_ns);
	return 0;
}

/*
 * Pass over the next pages if there is nothing to merge among them, with the lock held
 * for reading only: faults go on. Else *@idle is cleared.
 */
static int batch_pass(struct batch *b, bool *idle)
{
	struct upm_call *call = b->call;
	int err;

	if (mmap_read_lock_killable(call->mm))
		return -EINTR;
	err = upm_call_stop(call, true);
	b->mark = ktime_get_ns();
	b->vma = err ? NULL : upm_call_mergeable(call, &b->nr);
	if (b->vma) {
		b->addr = call->addr;
		upm_scan_range(b->vma, b->addr, b->nr, &b->scan);
		b->nr = b->scan.nr;
		*idle = b->scan.first == b->nr && !b->scan.orphans;
	}
	phase_end(b, UPM_PHASE_SCAN);
	if (b->vma && *idle) {
		batch_account(b);
		batch_totals(b, 0);
		trace_upm_batch(b->addr, b->nr, 0);
	}
	mmap_read_unlock(call->mm);
	return err;
}

/**
 * upm_merge() - merge [call->addr, call->end)
 * @call: mm, with a reference on its users; task, whose mm it is; domain;
 *	counts are added to, call->addr moves on.
 *
 * Takes and drops the mmap_lock for each batch: for writing only where there is
 * something to merge, or was just before.
 *
 * Return: 0, -ENOMEM, or what upm_call_stop() says.
 */
int upm_merge(struct upm_call *call)
{
	struct batch *b = kvzalloc(sizeof(*b), GFP_KERNEL_ACCOUNT);
	bool idle = true;
	int err = 0;

	if (!b)
		return -ENOMEM;
	b->call = call;
	upm_finder_init(&b->finder, call->dom, call->mm);
	while (call->addr < call->end && !err) {
		err = idle ? batch_pass(b, &idle) : batch_run(b, &idle);
		cond_resched();
	}
	upm_finder_release(&b->finder);
	kvfree(b);
	return err;
}
