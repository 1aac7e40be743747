// SPDX-License-Identifier: GPL-2.0-only
/*
 * Walks over the shared pages of a domain: a count, a sweep, and that of the shrinker
 * over those of a memory cgroup. See index.c for what keeps an entry while one looks.
 */
#include <linux/list_lru.h>
#include <linux/lockdep.h>
#include <linux/mm.h>
#include <linux/page-flags.h>
#include <linux/rculist.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/shrinker.h>

#include "compat/compat.h"
#include "upm.h"

/* Entries that are visited under one hold of domain->lock. */
#define WALK_CHUNK 128

/* Entries of one domain that one sweep visits; the next goes on from there. */
#define SWEEP_BUDGET 1048576UL

static int entry_mappings(const struct upm_entry *entry)
{
	return page_ref_count(entry->page) - 1;
}

/* ---- a count --------------------------------------------------------------- */

/* One chunk behind @entry (NULL: from the start); returns the last, NULL at the end. */
static struct upm_entry *count_chunk(struct upm_domain *dom,
				     struct upm_entry *entry,
				     struct upm_census *census)
{
	struct list_head *at = entry ? &entry->list : &dom->entries;
	unsigned int nr = WALK_CHUNK;
	int mappings;

	spin_lock(&dom->lock);
	for (entry = NULL; nr && at->next != &dom->entries; nr--) {
		at = at->next;
		if (at == &dom->cursor.list)
			continue;
		entry = list_entry(at, struct upm_entry, list);
		mappings = entry_mappings(entry);
		if (mappings > 0) {
			census->shared++;
			census->sharing += mappings - 1;
		} else {
			census->unused++;
		}
	}
	if (nr)
		entry = NULL;
	if (entry)
		get_page(entry->page);	/* the index has one: never the first */
	spin_unlock(&dom->lock);
	return entry;
}

/**
 * upm_index_count() - count what a domain shares
 * @dom: domain
 * @census: is added to
 *
 * Where it pauses, it holds the page of an entry, which keeps the entry in the
 * list: so it is in the way of no sweep, nor of another count. What it holds may be
 * counted as mapped once more by them.
 *
 * Return: 0, -EINTR on a fatal signal.
 */
int upm_index_count(struct upm_domain *dom, struct upm_census *census)
{
	struct upm_entry *entry = NULL, *last;

	do {
		last = entry;
		entry = count_chunk(dom, last, census);
		if (last)
			put_page(last->page);
		cond_resched();
	} while (entry && !fatal_signal_pending(current));
	if (!entry)
		return 0;
	put_page(entry->page);
	return -EINTR;
}

/* ---- a sweep --------------------------------------------------------------- */

/* Somebody holds the page of @entry, which has a memory error: nobody finds it again. */
static void entry_break(struct upm_domain *dom, struct upm_entry *entry,
			struct upm_swept *swept)
{
	upm_index_unhash(dom, entry);
	if (atomic_read(&entry->page->_mapcount) >= 0)
		swept->broken++;
	else
		swept->lost++;
}

/* One chunk from the cursor on. Returns false at the end of the list. */
static bool sweep_chunk(struct upm_domain *dom, unsigned int nr,
			struct upm_swept *swept, struct list_head *free)
{
	struct upm_entry *entry, *next = NULL;
	struct list_head *stop = &dom->entries;
	struct page *page;

	spin_lock(&dom->lock);
	entry = list_next_entry(&dom->cursor, list);
	list_del_rcu(&dom->cursor.list);
	for (; &entry->list != stop && nr; entry = next, nr--) {
		next = list_next_entry(entry, list);
		swept->visited++;
		page = entry_mappings(entry) ? NULL : upm_index_kill(dom, entry);
		if (!page) {
			if (PageHWPoison(entry->page))
				entry_break(dom, entry, swept);
			continue;
		}
		upm_lru_del(&upm_index_lru, &entry->lru);
		swept->freed++;
		list_add(&page->lru, free);
	}
	list_add_tail_rcu(&dom->cursor.list, &entry->list);
	spin_unlock(&dom->lock);
	return &entry->list != stop;
}

static void cursor_rewind(struct upm_domain *dom)
{
	spin_lock(&dom->lock);
	list_del_rcu(&dom->cursor.list);
	list_add_rcu(&dom->cursor.list, &dom->entries);
	spin_unlock(&dom->lock);
}

static void free_pages_list(struct list_head *free)
{
	struct page *page, *next;

	list_for_each_entry_safe(page, next, free, lru)
		put_page(page);	/* see merge.c, of mlock */
	INIT_LIST_HEAD(free);
}

static void account_freed(unsigned long freed)
{
	if (!freed)
		return;
	atomic64_add(freed, &upm_totals.freed);
	upm_index_reap();
}

/**
 * upm_index_sweep() - free the shared pages of a domain that nobody maps
 * @dom: domain; the caller holds dom->walk_mutex
 * @swept: what was done
 *
 * Visits SWEEP_BUDGET entries at most; the next sweep goes on from there.
 */
void upm_index_sweep(struct upm_domain *dom, struct upm_swept *swept)
{
	bool more = true;
	LIST_HEAD(free);

	lockdep_assert_held(&dom->walk_mutex);
	memset(swept, 0, sizeof(*swept));
	while (more && swept->visited < SWEEP_BUDGET) {
		more = sweep_chunk(dom, WALK_CHUNK, swept, &free);
		free_pages_list(&free);
		cond_resched();
	}
	swept->complete = !more;
	dom->lost_seen += swept->lost;
	if (!more) {
		WRITE_ONCE(dom->lost, dom->lost_seen);
		dom->lost_seen = 0;
		cursor_rewind(dom);
	}
	account_freed(swept->freed);
}

/* ---- a shrinker's walk ------------------------------------------------------ */

/* The list's lock is held, so whoever kills this entry meanwhile waits for us. */
static enum lru_status shrink_entry(UPM_LRU_WALK_PARAMS(item, list, arg))
{
	struct upm_entry *entry = container_of(item, struct upm_entry, lru);
	struct page *page = READ_ONCE(entry->page);
	enum lru_status status = LRU_ROTATE;
	struct list_head *free = arg;
	struct upm_domain *dom;

	if (!page)
		return LRU_SKIP;	/* just being killed */
	if (page_ref_count(page) != 1)
		return LRU_ROTATE;
	dom = upm_page_domain(page);
	rcu_read_lock();		/* for the unlock of its lock */
	if (!spin_trylock(&dom->lock)) {
		status = LRU_SKIP;
	} else {
		if (READ_ONCE(entry->page) && upm_index_kill(dom, entry)) {
			list_lru_isolate(list, item);
			list_add(&page->lru, free);
			status = LRU_REMOVED;
		}
		spin_unlock(&dom->lock);
	}
	rcu_read_unlock();
	return status;
}

/* Free shared pages that nobody maps, of the cgroup and node of @sc; returns how many. */
unsigned long upm_index_shrink(struct shrink_control *sc)
{
	unsigned long freed;
	LIST_HEAD(free);

	freed = list_lru_shrink_walk(&upm_index_lru, sc, shrink_entry, &free);
	free_pages_list(&free);
	account_freed(freed);
	return freed;
}
