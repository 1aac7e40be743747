// SPDX-License-Identifier: GPL-2.0-only
/*
 * Shared pages with a memory error are taken from those who map them.
 *
 * DOC: what users of a shared page get when its memory breaks
 *
 * The kernel unmaps a page with an error where it can. Whoever accesses it later gets
 * SIGBUS (BUS_MCEERR_AR); if the page was the clean one of a file, it is read again. It
 * cannot do that for a shared page, which it knows nothing of: it marks the frame and
 * leaves it mapped. So the module does the same when its sweep finds the mark. In an
 * anonymous mapping the page is replaced by the entry that the kernel itself puts there,
 * which ends an access; in a mapping of a file by nothing, so that the next fault reads
 * the file, since only clean pages merge there.
 *
 * Who maps the frame is not known, so all processes are looked through. Each mmap_lock is
 * only tried, for reading first: a process that holds its own for ever is in nobody's
 * way, and its turn comes with the next sweep. Under the lock for writing, with the VMA
 * locked too, the empty PTE stays empty until the entry is put there, and its table stays
 * as well, as for a fill (fill.c). A child that is forked meanwhile is found by the next
 * sweep, since the frame is still mapped.
 *
 * A process that may be killed early (PR_MCE_KILL) is not told before its next access.
 */
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/page-flags.h>
#include <linux/pgtable.h>
#include <linux/rcupdate.h>
#include <linux/sched/mm.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/swap.h>
#include <linux/swapops.h>

#include "compat/compat.h"
#include "upm.h"

#ifdef CONFIG_MEMORY_FAILURE

/* Returns true if @pte maps a shared page with a memory error. */
static bool is_broken(pte_t pte)
{
	struct page *page;

	if (pte_none(pte) || !pte_present(pte) || is_zero_pfn(pte_pfn(pte)))
		return false;
	page = upm_pte_page(pte);
	return page && PageHWPoison(page) &&
	       (upm_page_is_shared(page) || upm_page_is_orphan(page));
}

/* The first such PTE in [@addr, @end), which one table maps; or @end. */
static unsigned long find_broken(struct mm_struct *mm, unsigned long addr,
				 unsigned long end, pte_t *found)
{
	struct upm_verdict none;
	pte_t *table;

	rcu_read_lock();
	table = upm_pte_table(mm, addr, &none);
	if (!table)
		addr = end;
	for (; addr < end; addr += PAGE_SIZE) {
		*found = ptep_get(table + pte_index(addr));
		if (is_broken(*found))
			break;
	}
	rcu_read_unlock();
	return addr;
}

static void put_entry(struct mm_struct *mm, unsigned long addr,
		      unsigned long pfn)
{
	pmd_t *pmd = pmd_off(mm, addr);
	pte_t *pte = pte_offset_kernel(pmd, addr);
	spinlock_t *lock = pte_lockptr(mm, pmd);

	spin_lock(lock);
	if (pte_none(ptep_get(pte)))
		set_pte_at(mm, addr, pte,
			   swp_entry_to_pte(swp_entry(SWP_HWPOISON, pfn)));
	spin_unlock(lock);
}

static void take_page(struct vm_area_struct *vma, unsigned long addr, pte_t pte)
{
	bool mixed = vma->vm_flags & VM_MIXEDMAP;

	upm_vm_flags_set(vma, VM_MIXEDMAP);
	upm_zap_range(vma, addr, PAGE_SIZE);
	if (!mixed)
		upm_vm_flags_clear(vma, VM_MIXEDMAP);
	if (!vma->vm_file)
		put_entry(vma->vm_mm, addr, pte_pfn(pte));
}

/* What was seen under the lock for reading is looked for again under that for writing. */
static void take_pages(struct mm_struct *mm, unsigned long addr,
		       unsigned long end)
{
	struct vm_area_struct *vma;
	pte_t pte;

	if (!upm_mmap_write_trylock(mm))
		return;
	vma = find_vma(mm, addr);
	if (vma && vma->vm_start <= addr && vma->vm_end >= end &&
	    upm_vma_may_hold_merged(vma)) {
		upm_vma_start_write(vma);
		while ((addr = find_broken(mm, addr, end, &pte)) < end)
			take_page(vma, addr, pte);
	}
	mmap_write_unlock(mm);
}

/* What one table maps, at most. Returns false if the lock cannot be had. */
static bool look_at_some(struct upm_call *call)
{
	unsigned long addr, end, found;
	struct vm_area_struct *vma;
	pte_t pte;

	if (!mmap_read_trylock(call->mm))
		return false;
	vma = upm_call_vma(call, &end);
	addr = call->addr;
	found = end;
	if (vma && upm_vma_may_hold_merged(vma)) {
		end = min(end, ALIGN_DOWN(addr + PMD_SIZE, PMD_SIZE));
		found = find_broken(call->mm, addr, end, &pte);
	}
	mmap_read_unlock(call->mm);
	if (vma && found < end)
		take_pages(call->mm, found, end);
	if (vma)
		call->addr = end;
	return true;
}

static void look_at_task(struct task_struct *task)
{
	struct upm_call call = { .task = task };

	call.mm = get_task_mm(task);
	if (!call.mm)
		return;
	call.end = call.mm->task_size & PAGE_MASK;
	while (call.addr < call.end && look_at_some(&call))
		cond_resched();
	mmput(call.mm);
}

/* Take shared pages with a memory error from all processes. Waits for none of them. */
void upm_broken_take(void)
{
	struct task_struct **tasks;
	unsigned int i, nr;

	tasks = upm_tasks_get(&nr);
	if (!tasks)
		return;		/* the next sweep tries again */
	for (i = 0; i < nr; i++) {
		look_at_task(tasks[i]);
		put_task_struct(tasks[i]);
	}
	kvfree(tasks);
}

#else

void upm_broken_take(void)
{
}

#endif
