/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What differs between kernels, and nothing else. Each shim is chosen by a
 * probe (see compat/probe) that compiles a few lines against the kernel's
 * headers and looks its symbol up among those it exports; no version numbers.
 */
#ifndef UPM_COMPAT_H
#define UPM_COMPAT_H

#include <linux/capability.h>
#include <linux/list_lru.h>
#include <linux/mm.h>
#include <linux/mmap_lock.h>
#include <linux/sched.h>
#include <linux/shrinker.h>
#include <linux/slab.h>
#include <linux/user_namespace.h>
#include <linux/workqueue.h>

#include "probed.h"

#ifdef UPM_HAVE_TASK_EXEC_STATE
#include <linux/sched/exec_state.h>
#endif

#ifndef CONFIG_64BIT
#error "UPM needs a 64-bit kernel"
#endif
#ifndef CONFIG_DEVICE_MIGRATION
#error "UPM needs a kernel with CONFIG_DEVICE_MIGRATION (all distributions' have it)"
#endif

/* VM_DROPPABLE: 9651fcedf7b9 ("mm: add MAP_DROPPABLE"), v6.11. */
#ifdef VM_DROPPABLE
#define UPM_VM_DROPPABLE VM_DROPPABLE
#else
#define UPM_VM_DROPPABLE 0
#endif

/* VM_SHADOW_STACK: 54007f818206 ("mm: Introduce VM_SHADOW_STACK"), v6.6. */
#ifdef VM_SHADOW_STACK
#define UPM_VM_SHADOW_STACK VM_SHADOW_STACK
#else
#define UPM_VM_SHADOW_STACK 0
#endif

/*
 * vm_flags_set(), vm_flags_clear(): bc292ab00f6c ("mm: introduce vma->vm_flags
 * wrapper functions"), v6.3. Since v6.4 they also write-lock the VMA, on which
 * merge.c relies.
 */
static inline void upm_vm_flags_set(struct vm_area_struct *vma,
				    unsigned long flags)
{
#ifdef UPM_HAVE_VM_FLAGS_SET
	vm_flags_set(vma, flags);
#else
	vma->vm_flags |= flags;
#endif
}

static inline void upm_vm_flags_clear(struct vm_area_struct *vma,
				      unsigned long flags)
{
#ifdef UPM_HAVE_VM_FLAGS_SET
	vm_flags_clear(vma, flags);
#else
	vma->vm_flags &= ~flags;
#endif
}

/*
 * Keeps faults out that take the lock of the VMA instead of the mmap_lock (since
 * v6.4), until the mmap_lock, which is held for writing, is let go.
 */
static inline void upm_vma_start_write(struct vm_area_struct *vma)
{
	upm_vm_flags_clear(vma, 0);
}

/*
 * mmap_write_trylock() went without a user in v6.12. In its place is what the other
 * functions do that take the lock: since eb449bd96954 ("mm: convert mm_lock_seq to a
 * proper seqcount"), v6.13, that is to begin a write of the sequence count, too.
 */
static inline bool upm_mmap_write_trylock(struct mm_struct *mm)
{
#ifdef UPM_HAVE_MMAP_WRITE_TRYLOCK
	return mmap_write_trylock(mm);
#else
	if (!down_write_trylock(&mm->mmap_lock))
		return false;
#ifdef UPM_HAVE_MM_LOCK_SEQCOUNT
	mm_lock_seqcount_begin(mm);
#endif
	return true;
#endif
}

/*
 * Unmap a range of one VMA. zap_page_range() went with e9adcfecf572 ("mm:
 * remove zap_page_range and create zap_vma_pages"), v6.3, which exported
 * zap_page_range_single() in its place; zap_special_vma_range() follows in v7.x.
 */
static inline void upm_zap_range(struct vm_area_struct *vma,
				 unsigned long addr, unsigned long len)
{
#if defined(UPM_HAVE_ZAP_PAGE_RANGE_SINGLE)
	zap_page_range_single(vma, addr, len, NULL);
#elif defined(UPM_HAVE_ZAP_SPECIAL_VMA_RANGE)
	zap_special_vma_range(vma, addr, len);
#else
	zap_page_range(vma, addr, len);
#endif
}

/*
 * MIGRATE_VMA_SELECT_COMPOUND: a30b48bf1b24 ("mm/migrate_device: implement THP migration
 * of zone device pages"), v6.19. Without it the freeze splits huge pages (huge.c).
 */
#ifdef UPM_HAVE_MIGRATE_COMPOUND
#define UPM_MIGRATE_COMPOUND MIGRATE_VMA_SELECT_COMPOUND
#else
#define UPM_MIGRATE_COMPOUND 0
#endif

/*
 * get_user_pages_remote() lost its vmas argument with ca5e863233e8 ("mm/gup:
 * remove vmas parameter from get_user_pages_remote()"), v6.5.
 */
static inline long upm_gup_remote(struct mm_struct *mm, unsigned long addr,
				  unsigned long nr, unsigned int flags,
				  struct page **pages)
{
#ifdef UPM_HAVE_GUP_WITHOUT_VMAS
	return get_user_pages_remote(mm, addr, nr, flags, pages, NULL);
#else
	return get_user_pages_remote(mm, addr, nr, flags, pages, NULL, NULL);
#endif
}

/*
 * May the caller use @cap over @task, whose address space is @mm? The namespace
 * moved from the mm to the task with struct task_exec_state, v7.x.
 */
static inline bool upm_task_capable(struct task_struct *task,
				    struct mm_struct *mm, int cap)
{
#ifdef UPM_HAVE_TASK_EXEC_STATE
	struct user_namespace *ns;
	bool capable;

	rcu_read_lock();
	ns = get_user_ns(rcu_dereference(task->exec_state)->user_ns);
	rcu_read_unlock();
	capable = ns_capable(ns, cap);
	put_user_ns(ns);
	return capable;
#else
	return ns_capable(mm->user_ns, cap);
#endif
}

/*
 * system_dfl_wq: 128ea9f6ccfb ("workqueue: Add system_percpu_wq and
 * system_dfl_wq"), v6.17; later kernels warn of the old name.
 */
#ifdef UPM_HAVE_SYSTEM_DFL_WQ
#define upm_unbound_wq system_dfl_wq
#else
#define upm_unbound_wq system_unbound_wq
#endif

/*
 * list_lru_add(), list_lru_del() of a slab object: since 0a97c01cd20b ("list_lru: allow
 * explicit memcg and NUMA node selection"), v6.8, by list_lru_add_obj() and its like.
 */
static inline void upm_lru_add(struct list_lru *lru, struct list_head *item)
{
#ifdef UPM_HAVE_LIST_LRU_ADD_OBJ
	list_lru_add_obj(lru, item);
#else
	list_lru_add(lru, item);
#endif
}

static inline void upm_lru_del(struct list_lru *lru, struct list_head *item)
{
#ifdef UPM_HAVE_LIST_LRU_ADD_OBJ
	list_lru_del_obj(lru, item);
#else
	list_lru_del(lru, item);
#endif
}

/*
 * Parameters of a list_lru_walk_cb: the lock went with da0c02516c50 ("mm/list_lru:
 * simplify the list_lru walk callback function"), v6.13.
 */
#ifdef UPM_HAVE_LIST_LRU_WALK_WITH_LOCK
#define UPM_LRU_WALK_PARAMS(_item, _list, _arg)				\
	struct list_head *_item, struct list_lru_one *_list,		\
	spinlock_t *lru_lock, void *_arg
#else
#define UPM_LRU_WALK_PARAMS(_item, _list, _arg)				\
	struct list_head *_item, struct list_lru_one *_list, void *_arg
#endif

/*
 * shrinker_alloc(): c42d50aefd17 ("mm: shrinker: add infrastructure for
 * dynamically allocating shrinker"), v6.7.
 */
typedef unsigned long (*upm_shrink_fn)(struct shrinker *,
				       struct shrink_control *);

struct upm_shrinker {
#ifdef UPM_HAVE_SHRINKER_ALLOC
	struct shrinker *shrinker;
#else
	struct shrinker shrinker;
#endif
};

/*
 * A shrinker for each memory cgroup and node, and its list. Before v6.7 the list can be
 * had only after the shrinker runs: @count and @scan must not trust in it before this
 * function returns.
 */
static inline int upm_shrinker_register(struct upm_shrinker *s,
					struct list_lru *lru, const char *name,
					upm_shrink_fn count, upm_shrink_fn scan)
{
	const unsigned int flags = SHRINKER_MEMCG_AWARE | SHRINKER_NUMA_AWARE;
	int err;

#ifdef UPM_HAVE_SHRINKER_ALLOC
	s->shrinker = shrinker_alloc(flags, "%s", name);
	if (!s->shrinker)
		return -ENOMEM;
	err = list_lru_init_memcg(lru, s->shrinker);
	if (err) {
		shrinker_free(s->shrinker);
		return err;
	}
	s->shrinker->count_objects = count;
	s->shrinker->scan_objects = scan;
	s->shrinker->seeks = DEFAULT_SEEKS;
	shrinker_register(s->shrinker);
	return 0;
#else
	s->shrinker.count_objects = count;
	s->shrinker.scan_objects = scan;
	s->shrinker.seeks = DEFAULT_SEEKS;
	s->shrinker.flags = flags;
	err = register_shrinker(&s->shrinker, "%s", name);
	if (err)
		return err;
	err = list_lru_init_memcg(lru, &s->shrinker);
	if (err)
		unregister_shrinker(&s->shrinker);
	return err;
#endif
}

static inline void upm_shrinker_unregister(struct upm_shrinker *s)
{
#ifdef UPM_HAVE_SHRINKER_ALLOC
	shrinker_free(s->shrinker);
#else
	unregister_shrinker(&s->shrinker);
#endif
}

#endif /* UPM_COMPAT_H */
