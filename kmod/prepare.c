// SPDX-License-Identifier: GPL-2.0-only
/*
 * Making candidates of what cannot be merged as it is, by the faults that the
 * program itself might take: orphans, and the pages of a file VMA that has no
 * anon_vma (see the head of merge.c).
 */
#include <linux/fs.h>
#include <linux/lockdep.h>
#include <linux/magic.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/sched.h>

#include "compat/compat.h"
#include "upm.h"

/*
 * Would a fault on this VMA wait for a program of which the caller knows nothing?
 * Its pages are there, so none reads the file but by a race, which the program may
 * provoke, and it may never answer: an agent would hang, with the lock held.
 */
static bool fault_may_hang(const struct vm_area_struct *vma)
{
	const struct file *file = vma->vm_file;

	return file && vma->vm_mm != current->mm &&
	       file_inode(file)->i_sb->s_magic == FUSE_SUPER_MAGIC;
}

/*
 * A write fault, as by the program. FOLL_NOWAIT: the mmap_lock is held for writing,
 * no time to wait for a page to be read.
 */
static void make_private(struct vm_area_struct *vma, unsigned long addr)
{
	upm_gup_remote(vma->vm_mm, addr, 1,
		       FOLL_WRITE | FOLL_FORCE | FOLL_NOWAIT, NULL);
}

/* The page at @addr of a file mapping is the file's own again: drop it and read it. */
static void make_clean(struct vm_area_struct *vma, unsigned long addr)
{
	bool mixed = vma->vm_flags & VM_MIXEDMAP;

	upm_vm_flags_set(vma, VM_MIXEDMAP);
	upm_zap_range(vma, addr, PAGE_SIZE);
	if (!mixed)
		upm_vm_flags_clear(vma, VM_MIXEDMAP);
	upm_gup_remote(vma->vm_mm, addr, 1, FOLL_FORCE | FOLL_NOWAIT, NULL);
}

/*
 * A write fault on a clean page gives a file VMA its anon_vma; the page becomes the
 * file's again. Without VM_WRITE the private copy is read-only: a thread that wrote
 * to it in between would not fault, and its bytes would go with the copy.
 */
static void make_anon_vma(struct vm_area_struct *vma, unsigned long addr)
{
	unsigned long writable = vma->vm_flags & VM_WRITE;

	upm_vm_flags_clear(vma, VM_WRITE);
	make_private(vma, addr);
	make_clean(vma, addr);
	upm_vm_flags_set(vma, writable);
}

/**
 * upm_prepare() - make candidates of what cannot be merged as it is
 * @vma: write-locked, and its mmap_lock held for writing
 * @addr: of the first page of @scan
 * @scan: a look at the range, taken again if anything was done. What could not be
 *	made a candidate shows in it.
 */
void upm_prepare(struct vm_area_struct *vma, unsigned long addr,
		 struct upm_scan *scan)
{
	bool bare_file = vma->vm_file && !vma->anon_vma;
	bool candidates = scan->first < scan->nr;
	unsigned int i;

	lockdep_assert_held_write(&vma->vm_mm->mmap_lock);
	if (!scan->orphans && (!bare_file || !candidates))
		return;
	if (fault_may_hang(vma)) {
		upm_scan_refuse(scan, UPM_SKIP_FILE);
		return;
	}
	if (bare_file && candidates)
		make_anon_vma(vma, addr + scan->first * PAGE_SIZE);
	for (i = 0; i < scan->nr; i++) {
		if (scan->page[i].state != UPM_PAGE_ORPHAN)
			continue;
		if (vma->vm_file)
			make_clean(vma, addr + i * PAGE_SIZE);
		else
			make_private(vma, addr + i * PAGE_SIZE);
	}
	upm_scan_range(vma, addr, scan->nr, scan);
	if (vma->vm_file && !vma->anon_vma)
		upm_scan_refuse(scan, UPM_SKIP_NOMEM);
}
