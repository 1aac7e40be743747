// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the page table says about a range, before anything is touched.
 *
 * DOC: reading a page table
 *
 * The caller holds the mmap_lock (for reading or writing), so neither the VMA
 * nor an upper-level table goes away, except that file code may free an empty
 * PTE table under its own locks: such a table is freed after a grace period
 * where the mmap_lock does not exclude it, so the walk runs under RCU. PTEs may
 * change under us (reclaim, migration, truncation): every class is a hint,
 * decided again by the freeze, except for the pages of ours, which nobody but
 * a fault or an unmap of this range replaces.
 */
#include <linux/bitmap.h>
#include <linux/lockdep.h>
#include <linux/mman.h>
#include <linux/mmap_lock.h>
#include <linux/mmzone.h>
#include <linux/page-flags.h>
#include <linux/pgtable.h>
#include <linux/rcupdate.h>
#include <linux/userfaultfd_k.h>

#include "compat/compat.h"
#include "upm.h"

/* Mappings that say of themselves that their content is not for others. */
#define UPM_VM_SECRET (VM_DONTDUMP | VM_WIPEONFORK | UPM_VM_DROPPABLE)

/* A reason why no page of @vma may be merged, or UPM_SKIP_NR. */
static enum upm_skip vma_refusal(struct vm_area_struct *vma)
{
	unsigned long flags = vma->vm_flags;

	if (is_vm_hugetlb_page(vma))
		return UPM_SKIP_HUGETLB;
	if (flags & (VM_SHARED | VM_MAYSHARE))
		return UPM_SKIP_SHARED;
	if (flags & (VM_IO | VM_PFNMAP | VM_DONTEXPAND | UPM_VM_SHADOW_STACK))
		return UPM_SKIP_SPECIAL;
	if ((flags & (VM_SHARED | VM_MAYWRITE)) != VM_MAYWRITE)
		return UPM_SKIP_SPECIAL;	/* a write could not be private */
	if (vma->vm_file && !S_ISREG(file_inode(vma->vm_file)->i_mode))
		return UPM_SKIP_SPECIAL;
	if (vma->vm_ops && !vma->vm_file)
		return UPM_SKIP_SPECIAL;	/* vdso and its like */
	if (vma_is_dax(vma))
		return UPM_SKIP_SPECIAL;
	if (userfaultfd_armed(vma))
		return UPM_SKIP_UFFD;
	if (flags & UPM_VM_SECRET)
		return UPM_SKIP_SECRET;
	return UPM_SKIP_NR;
}

/*
 * Returns true if no page of @vma may be merged, and why. VM_MIXEDMAP alone is no
 * reason, since we set it ourselves: see upm_scan.foreign_special.
 */
bool upm_vma_refused(struct vm_area_struct *vma, enum upm_skip *reason)
{
	*reason = vma_refusal(vma);
	return *reason != UPM_SKIP_NR;
}

static struct upm_verdict look_at_page(struct page *page, bool file_vma)
{
	if (upm_page_is_shared(page))
		return upm_page_is(UPM_PAGE_MERGED);
	if (upm_page_is_orphan(page))
		return upm_page_is(UPM_PAGE_ORPHAN);
	if (PageTransCompound(page))
		return upm_page_left(UPM_SKIP_COMPOUND);
	if (folio_test_ksm(page_folio(page)))
		return upm_page_alone(UPM_SKIP_KSM);
	if (atomic_read(&page->_mapcount) >= (PageAnon(page) ?
					      UPM_ANON_MAPPINGS_MAX :
					      UPM_FILE_MAPPINGS_MAX))
		return upm_page_alone(file_vma ? UPM_SKIP_FILE :
						 UPM_SKIP_SHARED);
	/*
	 * A private copy in a file mapping must stay anonymous: when the file
	 * drops its pages (hole punch, invalidation), the kernel spares
	 * anonymous pages and takes all others for the file's own.
	 */
	if (file_vma && (PageAnon(page) || !READ_ONCE(upm_knobs.file_pages)))
		return upm_page_left(UPM_SKIP_FILE);
	return upm_page_is(UPM_PAGE_CANDIDATE);
}

/*
 * The page of a present PTE of a VMA that is not refused, or NULL. Where the architecture
 * marks those without one, the mark is enough, as for the kernel itself.
 */
struct page *upm_pte_page(pte_t pte)
{
	if (pte_special(pte))
		return NULL;
	if (!IS_ENABLED(CONFIG_ARCH_HAS_PTE_SPECIAL) && !pfn_valid(pte_pfn(pte)))
		return NULL;
	return pfn_to_page(pte_pfn(pte));
}

static struct upm_verdict look_at_pte(struct vm_area_struct *vma, pte_t pte,
				      struct upm_scan *scan)
{
	struct page *page;

	if (pte_none(pte))
		return upm_page_left(UPM_SKIP_NOT_PRESENT);
	if (!pte_present(pte))
		return upm_page_left(UPM_SKIP_SWAPPED);
	if (is_zero_pfn(pte_pfn(pte)))
		return upm_page_is(UPM_PAGE_ZERO);
	page = upm_pte_page(pte);
	if (!page) {
		scan->foreign_special = true;
		return upm_page_left(UPM_SKIP_SPECIAL);
	}
	return look_at_page(page, vma->vm_file);
}

/* A huge page, or one under migration, in place of a table. */
static struct upm_verdict look_at_pmd(pmd_t pmd)
{
	if (!pmd_present(pmd))
		return upm_page_left(UPM_SKIP_SWAPPED);
	if (!pmd_trans_huge(pmd))
		return upm_page_left(UPM_SKIP_SPECIAL);
	/* The freeze splits it. Each process has one reference. */
	if (page_ref_count(pmd_page(pmd)) > UPM_ANON_MAPPINGS_MAX)
		return upm_page_alone(UPM_SKIP_SHARED);
	return upm_page_is(UPM_PAGE_CANDIDATE);
}

/*
 * The PTE table for @addr, NULL if there is none; *@all then holds for all pages
 * that the missing table would map. That they are not present is said only where
 * nothing is in the place of a table.
 */
pte_t *upm_pte_table(struct mm_struct *mm, unsigned long addr,
		     struct upm_verdict *all)
{
	pgd_t *pgd = pgd_offset(mm, addr);
	p4d_t *p4d;
	pud_t *pud;
	pmd_t pmd;

	*all = upm_page_left(UPM_SKIP_NOT_PRESENT);
	if (pgd_none(*pgd))
		return NULL;
	p4d = p4d_offset(pgd, addr);
	if (pgd_bad(*pgd) || p4d_bad(*p4d))
		goto special;
	if (p4d_none(*p4d))
		return NULL;
	pud = pud_offset(p4d, addr);
	if (pud_none(*pud))
		return NULL;
	if (!pud_present(*pud) || pud_trans_huge(*pud) || pud_bad(*pud))
		goto special;
	pmd = READ_ONCE(*pmd_offset(pud, addr));
	if (pmd_none(pmd))
		return NULL;
	if (!pmd_present(pmd) || pmd_trans_huge(pmd) || pmd_bad(pmd)) {
		*all = look_at_pmd(pmd);
		return NULL;
	}
	return pte_offset_kernel(&pmd, addr & PMD_MASK);

special:
	*all = upm_page_left(UPM_SKIP_SPECIAL);
	return NULL;
}

/**
 * upm_scan_range() - classify the pages of [@addr, @addr + @nr pages)
 * @vma: a VMA that holds the whole range and is not refused
 * @addr: page-aligned
 * @nr: at most UPM_BATCH_MAX
 * @scan: result. It ends (scan->nr) before a page behind a candidate that is not to
 *	be frozen: what lies between two candidates is frozen with them.
 *
 * The caller holds the mmap_lock of vma->vm_mm.
 */
void upm_scan_range(struct vm_area_struct *vma, unsigned long addr,
		    unsigned int nr, struct upm_scan *scan)
{
	struct upm_verdict none = {};
	pte_t *table = NULL;
	unsigned int i;

	lockdep_assert_held(&vma->vm_mm->mmap_lock);
	scan->nr = nr;
	scan->first = nr;
	scan->last = 0;
	scan->orphans = 0;
	scan->foreign_special = false;

	rcu_read_lock();
	for (i = 0; i < nr; i++, addr += PAGE_SIZE) {
		if (i == 0 || !(addr & ~PMD_MASK))
			table = upm_pte_table(vma->vm_mm, addr, &none);
		scan->page[i] = table ?
			look_at_pte(vma, ptep_get(table + pte_index(addr)),
				    scan) : none;
		if (scan->page[i].state == UPM_PAGE_ALONE && scan->first < nr) {
			scan->nr = i;
			break;
		}
		scan->orphans += scan->page[i].state == UPM_PAGE_ORPHAN;
		if (scan->page[i].state != UPM_PAGE_CANDIDATE)
			continue;
		scan->last = i;
		if (scan->first == nr)
			scan->first = i;
	}
	rcu_read_unlock();
	scan->first = min(scan->first, scan->nr);
}

/**
 * upm_scan_empty() - find the pages of [@addr, @addr + @nr pages) that are not there
 * @mm: its mmap_lock is held
 * @addr: page-aligned
 * @nr: pages
 * @empty: bitmap; a bit is set if nothing at all is in the place of the page
 */
void upm_scan_empty(struct mm_struct *mm, unsigned long addr, unsigned int nr,
		    unsigned long *empty)
{
	struct upm_verdict none = {};
	pte_t *table = NULL;
	unsigned int i;

	lockdep_assert_held(&mm->mmap_lock);
	bitmap_zero(empty, nr);
	rcu_read_lock();
	for (i = 0; i < nr; i++, addr += PAGE_SIZE) {
		if (i == 0 || !(addr & ~PMD_MASK))
			table = upm_pte_table(mm, addr, &none);
		if (table ? pte_none(ptep_get(table + pte_index(addr))) :
			    none.state == UPM_PAGE_LEFT &&
			    none.reason == UPM_SKIP_NOT_PRESENT)
			__set_bit(i, empty);
	}
	rcu_read_unlock();
}

/* Leave every candidate, and what might become one, as it is, for @reason. */
void upm_scan_refuse(struct upm_scan *scan, enum upm_skip reason)
{
	unsigned int i;

	for (i = 0; i < scan->nr; i++)
		if (scan->page[i].state == UPM_PAGE_CANDIDATE ||
		    scan->page[i].state == UPM_PAGE_ORPHAN)
			scan->page[i] = upm_page_left(reason);
	scan->first = scan->nr;
}
