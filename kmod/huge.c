// SPDX-License-Identifier: GPL-2.0-only
/*
 * A transparent huge page, frozen and replaced as one, where the kernel's
 * migrate_vma_setup() can do that. Elsewhere the freeze splits it first.
 *
 * DOC: a huge page as one
 *
 * MIGRATE_VMA_SELECT_COMPOUND has the freeze put one migration entry in the place of the
 * one entry that maps the huge page, lock and isolate it once, and check its references
 * once. What merge.c says of a frozen page holds for all of its pages.
 *
 * All or nothing: a shared page is a small one, and a huge page that lost a part of its
 * mapping can be neither given back whole nor merged again later. So it is replaced only
 * if every page of it is known to the index, or zero. If one is not, nothing was touched:
 * migrate_vma_finalize() puts the huge page back as it was, and the next batch has it
 * split, as where it cannot be frozen as one (struct batch, split). Nothing is inserted
 * for the same reason: that takes longer and gains little by this.
 *
 * The way on needs no memory. The kernel keeps a page table in reserve for each huge page
 * that is mapped. Where a part of the range is unmapped, it fills that table with entries
 * of small pages, here migration entries, in place of the huge one, and takes out the
 * part. So a first page is zapped and then the rest, and the table, empty by then, is
 * there for the shared pages, as it is for small pages. By one zap of all it would be
 * freed, and a new one had to be had while the pages are in no table at all.
 *
 * The huge page itself is not split. Without a mapping its last reference frees it as a
 * whole; if other processes map it since a fork, they get it back, huge.
 */
#include <linux/lockdep.h>
#include <linux/migrate.h>
#include <linux/mm.h>
#include <linux/rcupdate.h>

#include "compat/compat.h"
#include "upm.h"

/*
 * A huge page takes the lock for as long as so many small ones, about. Who wants shorter
 * batches has it split.
 */
#define BATCH_LIKE_HUGE 128

static_assert(HPAGE_PMD_NR <= UPM_BATCH_MAX);

/* Returns true if a huge page that may be merged is mapped at @addr as one. */
static bool maps_huge(struct mm_struct *mm, unsigned long addr)
{
	struct upm_verdict all;
	pte_t *table;

	rcu_read_lock();
	table = upm_pte_table(mm, addr, &all);
	rcu_read_unlock();
	return !table && all.state == UPM_PAGE_CANDIDATE;
}

/**
 * upm_huge_next() - is a huge page next, to be frozen as one?
 * @vma: may be merged; the mmap_lock of its mm is held
 * @addr: of the next page, page-aligned
 * @end: of the part of @vma to be merged
 * @nr: pages of the next batch. They become those of the huge page; or, if one begins
 *	among them, those before it.
 *
 * It may be split before it is frozen: upm_huge_frozen() says what came of it.
 */
bool upm_huge_next(struct vm_area_struct *vma, unsigned long addr,
		   unsigned long end, unsigned int *nr)
{
	unsigned long huge = ALIGN(addr, HPAGE_PMD_SIZE);

	lockdep_assert_held(&vma->vm_mm->mmap_lock);
	if (!vma_is_anonymous(vma) || huge < addr || end < HPAGE_PMD_SIZE ||
	    huge > end - HPAGE_PMD_SIZE || huge - addr >= *nr * PAGE_SIZE)
		return false;
	if (READ_ONCE(upm_knobs.batch_pages) < BATCH_LIKE_HUGE ||
	    !maps_huge(vma->vm_mm, huge))
		return false;
	*nr = huge == addr ? HPAGE_PMD_NR : (huge - addr) >> PAGE_SHIFT;
	return huge == addr;
}

/**
 * upm_huge_frozen() - the huge page that was frozen as one
 * @src: as migrate_vma_setup() left it, for HPAGE_PMD_NR pages
 *
 * Where there was none but a hole, or the huge page of zeros, @src comes to say so of each
 * page. Return: its first page, or NULL: then @src is as for small pages.
 */
struct page *upm_huge_frozen(unsigned long *src)
{
	struct page *page = migrate_pfn_to_page(src[0]);
	unsigned int i;

	if (!(src[0] & MIGRATE_PFN_COMPOUND))
		return NULL;
	if (page)
		return page;
	for (i = 0; i < HPAGE_PMD_NR; i++)
		src[i] = MIGRATE_PFN_MIGRATE;
	return NULL;
}

/* Unmaps the huge page that was frozen as one, but keeps its table. */
void upm_huge_zap(struct vm_area_struct *vma, unsigned long addr)
{
	upm_zap_range(vma, addr, PAGE_SIZE);
	upm_zap_range(vma, addr + PAGE_SIZE, HPAGE_PMD_SIZE - PAGE_SIZE);
}
