// SPDX-License-Identifier: GPL-2.0-only
/*
 * Filling: shared pages are mapped where a program has no page yet.
 *
 * DOC: why filling freezes nothing and loses no byte
 *
 * An empty PTE has no page that anybody could have pinned, locked, registered or
 * started I/O on, and no byte that could get lost. All that is needed is that it
 * stays empty until it is mapped. Under the mmap_lock for writing, with the VMA
 * write-locked too where the kernel has VMA locks, no fault and no system call of this
 * address space puts anything there, khugepaged waits, and a lockless pin does not
 * fault. So emptiness is looked at here, under these locks, whatever was seen before.
 * "Empty" is what the page table says with certainty (upm_scan_empty()): a huge page,
 * one under migration, in swap, or a marker of userfaultfd is none.
 *
 * A private anonymous VMA gets its anon_vma from its first write fault, and fork copies
 * the page table of no VMA without one: the child of a program that has only loaded
 * would read zeros. So the VMA has one before anything is mapped (make_anon_vma()).
 *
 * vm_insert_pages() looks at VM_MIXEDMAP, and writes to vm_flags itself if it is not
 * set, on 6.12 after an assertion that fails for a VMA that is not locked for it. So
 * it is set before.
 */
#include <linux/bitmap.h>
#include <linux/lockdep.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/pkeys.h>
#include <linux/sched.h>

#include "compat/compat.h"
#include "upm.h"

/*
 * Returns true if no empty page of @vma may be filled, and why. One that cannot be
 * written to is refused, since the program's own read would fail there; and one with a
 * protection key, since whether it may be written to differs from thread to thread.
 */
bool upm_fill_refused(struct vm_area_struct *vma, enum upm_skip *reason)
{
	if (upm_vma_refused(vma, reason))
		return true;
	*reason = UPM_SKIP_SPECIAL;
	if (vma_is_anonymous(vma) && (vma->vm_flags & VM_WRITE) &&
	    !(vma->vm_flags & ARCH_VM_PKEY_FLAGS))
		return false;
	if (vma->vm_file)
		*reason = UPM_SKIP_FILE;
	return true;
}

/*
 * A write fault on the empty page at @addr, which is dropped again. Without VM_WRITE the
 * page is read-only, so no thread can write to it in between and lose what it wrote; and
 * with VM_NOHUGEPAGE it is a small one, so that nothing is put beside it.
 */
static bool make_anon_vma(struct vm_area_struct *vma, unsigned long addr)
{
	const unsigned long small = VM_NOHUGEPAGE & ~vma->vm_flags;

	upm_vm_flags_clear(vma, VM_WRITE);
	upm_vm_flags_set(vma, small);
	upm_gup_remote(vma->vm_mm, addr, 1,
		       FOLL_WRITE | FOLL_FORCE | FOLL_NOWAIT, NULL);
	upm_vm_flags_clear(vma, small);
	upm_vm_flags_set(vma, VM_WRITE | VM_MIXEDMAP);
	upm_zap_range(vma, addr, PAGE_SIZE);
	return vma->anon_vma;
}

static void insert_run(struct vm_area_struct *vma, unsigned long addr,
		       struct page **pages, unsigned int from, unsigned int to,
		       unsigned long *wanted)
{
	unsigned long left = to - from;

	/* It may lack memory for a page table: then the rest stays empty. */
	vm_insert_pages(vma, addr + from * PAGE_SIZE, &pages[from], &left);
	bitmap_clear(wanted, to - left, left);
}

/**
 * upm_fill() - map shared pages where nothing is
 * @vma: VMA of the whole range, for which upm_fill_refused() is false; the mmap_lock
 *	is held for writing
 * @addr: of page 0, page-aligned
 * @nr: pages, at most UPM_FILL_MAX
 * @pages: shared pages; each mapping takes a reference of its own
 * @wanted: bitmap of those to map. In it stay those that were mapped: a page that has
 *	come to be there, or has no page table, is left as it is.
 */
void upm_fill(struct vm_area_struct *vma, unsigned long addr, unsigned int nr,
	      struct page **pages, unsigned long *wanted)
{
	DECLARE_BITMAP(empty, UPM_FILL_MAX);
	unsigned int from, to;
	bool mixed;

	lockdep_assert_held_write(&vma->vm_mm->mmap_lock);
	upm_vma_start_write(vma);
	upm_scan_empty(vma->vm_mm, addr, nr, empty);
	if (!bitmap_and(wanted, wanted, empty, nr))
		return;

	mixed = vma->vm_flags & VM_MIXEDMAP;
	if (!vma->anon_vma &&
	    !make_anon_vma(vma, addr + find_first_bit(wanted, nr) * PAGE_SIZE))
		bitmap_zero(wanted, nr);
	upm_vm_flags_set(vma, VM_MIXEDMAP);
	for_each_set_bitrange(from, to, wanted, nr)
		insert_run(vma, addr, pages, from, to, wanted);

	if (!mixed)
		upm_vm_flags_clear(vma, VM_MIXEDMAP);
	if (!bitmap_empty(wanted, nr))
		upm_vm_flags_set(vma, UPM_VM_MERGED);
}
