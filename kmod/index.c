// SPDX-License-Identifier: GPL-2.0-only
/*
 * The index of a domain: content -> shared page.
 *
 * DOC: finding a page while others free it
 *
 * A lookup runs under RCU and takes a reference on the page of the entry, if
 * the count is not zero, and looks again whether the entry still has that page
 * (as the page cache does). Freeing freezes the count of the page at one, the
 * index's own reference, clears entry->page, removes the entry from hash and
 * list, and only then lets the page go. So a lookup that gets a reference on
 * the frame after that sees entry->page cleared, and drops it: the reference
 * count orders the two. A lookup that came first makes the freeze fail.
 *
 * Who holds a reference on an entry's page therefore holds the entry. The
 * result of a lookup is an entry with that reference; put_page(entry->page)
 * gives it back.
 *
 * DOC: unused pages go before a cgroup's limit kills
 *
 * A shared page stays charged to the memory cgroup of its first user until it is
 * freed. So each entry stands in a list_lru, in the list of the cgroup that both are
 * charged to, and a shrinker frees those that nobody maps when that cgroup is at its
 * limit. It comes from the list's lock and needs that of the domain, while a sweep
 * takes them the other way round: so it tries, and leaves the entry if it cannot have
 * it. The domain of a page is in a word of struct page that belongs to the owner of a
 * page that is not on the kernel's LRU. It is valid as long as the entry is in the
 * list_lru: who kills an entry takes it out before the page goes, and the domain
 * cannot go before its last page has, and then not before a grace period.
 *
 * DOC: a frame with a memory error leaves the index
 *
 * It is closed at once: nobody looks at it who comes by its hash or as a successor. The
 * sweep takes it out of the hash for good, and has it taken from those who map it
 * (walk.c, broken.c). In the list it stays as long as somebody has a reference, since who holds
 * its page may go on from it. The kernel may be the one, and for ever; so a domain with
 * no other entry counts as empty (upm_domain.lost).
 *
 * DOC: the successor, found by order
 *
 * Containers load the same files in the same order. Entries are kept in a list
 * in the order in which one call inserted them, a new one behind the one that
 * its caller found or inserted last. The successor of the last hit is compared
 * first, and a run of equal pages costs no hash at all.
 */
#include <linux/highmem.h>
#include <linux/list_lru.h>
#include <linux/lockdep.h>
#include <linux/mm.h>
#include <linux/random.h>
#include <linux/rculist.h>
#include <linux/rhashtable.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "compat/compat.h"
#include "upm.h"

static struct kmem_cache *entry_cache;
static atomic_long_t index_pages;
static u64 page_tag;		/* random: marks pages of ours */
static LLIST_HEAD(dead_entries);
struct list_lru upm_index_lru;

static void reap_dead(struct work_struct *work);
static DECLARE_WORK(reap_work, reap_dead);

static const struct rhashtable_params index_params = {
	.head_offset = offsetof(struct upm_entry, node),
	.key_offset = offsetof(struct upm_entry, hash),
	.key_len = sizeof_field(struct upm_entry, hash),
	.automatic_shrinking = true,
};

/*
 * Pages of ours carry a tag ^ pfn as their private word, which the kernel leaves
 * to the owner of a page outside the page cache. A page of somebody else has
 * that word by a chance of 2^-64.
 *
 * An orphan is a shared page that was still mapped when the module was unloaded.
 * It works as before, but no index knows it, so nobody else comes to share it.
 */
#define ORPHAN_TAG 0x75706d206f727068ULL	/* "upm orph" */

bool upm_page_is_shared(struct page *page)
{
	return READ_ONCE(page->private) == (page_tag ^ page_to_pfn(page));
}

bool upm_page_is_orphan(struct page *page)
{
	return READ_ONCE(page->private) == (ORPHAN_TAG ^ page_to_pfn(page));
}

static void page_mark(struct page *page)
{
	set_page_private(page, page_tag ^ page_to_pfn(page));
}

static void page_set_domain(struct page *page, struct upm_domain *dom)
{
	page->lru.next = (void *)dom;
}

/* The domain of a page whose entry stands in upm_index_lru. */
struct upm_domain *upm_page_domain(const struct page *page)
{
	return (void *)READ_ONCE(page->lru.next);
}

struct upm_entry *upm_entry_alloc(gfp_t gfp)
{
	struct upm_entry *entry;

	entry = kmem_cache_alloc_lru(entry_cache, &upm_index_lru, gfp);
	if (entry) {
		entry->page = NULL;
		INIT_LIST_HEAD(&entry->lru);
	}
	return entry;
}

/* For an entry that never was in an index. */
void upm_entry_free(struct upm_entry *entry)
{
	kmem_cache_free(entry_cache, entry);
}

/* Bytes that the bookkeeping of a domain takes: entries and hash buckets. */
u64 upm_index_metadata(struct upm_domain *dom)
{
	struct bucket_table *table;
	u64 buckets;

	rcu_read_lock();
	table = rht_dereference_rcu(dom->index.tbl, &dom->index);
	buckets = table->size;
	rcu_read_unlock();
	return atomic_long_read(&dom->pages) * sizeof(struct upm_entry) +
	       buckets * sizeof(struct rhash_lock_head *);
}

static __always_inline bool entry_tryget(struct upm_entry *entry)
{
	struct page *page = READ_ONCE(entry->page);

	if (!page || !get_page_unless_zero(page))
		return false;
	if (READ_ONCE(entry->page) == page)
		return true;
	put_page(page);
	return false;
}

/*
 * Entry with this key that takes more mappings, its page referenced, or NULL. The
 * content may differ.
 */
struct upm_entry *upm_index_get(struct upm_domain *dom, u64 hash)
{
	struct upm_entry *entry;

	rcu_read_lock();
	entry = rhashtable_lookup(&dom->index, &hash, index_params);
	if (entry && !entry_tryget(entry))
		entry = NULL;
	rcu_read_unlock();
	if (entry && upm_entry_closed(entry)) {
		put_page(entry->page);
		entry = NULL;
	}
	return entry;
}

/*
 * Entry inserted behind @prev, its page referenced, or NULL. The caller holds
 * the page of @prev, so @prev is in the list.
 */
struct upm_entry *upm_index_get_next(struct upm_domain *dom,
				     struct upm_entry *prev)
{
	struct list_head *next;
	struct upm_entry *entry;

	rcu_read_lock();
	next = READ_ONCE(prev->list.next);
	if (next == &dom->cursor.list)
		next = READ_ONCE(next->next);
	entry = list_entry(next, struct upm_entry, list);
	if (next == &dom->entries || entry == prev || !entry_tryget(entry))
		entry = NULL;
	rcu_read_unlock();
	return entry;
}

static void pages_unreserve(struct upm_domain *dom)
{
	atomic_long_dec(&dom->pages);
	atomic_long_dec(&dom->owner->pages);
	atomic_long_dec(&index_pages);
}

/* @may_crowd: also where little is left, and the owner has much. */
static bool pages_reserve(struct upm_domain *dom, bool may_crowd)
{
	unsigned long total = atomic_long_inc_return(&index_pages);
	unsigned long own = atomic_long_inc_return(&dom->owner->pages);
	unsigned long here = atomic_long_inc_return(&dom->pages);
	unsigned long max = READ_ONCE(upm_knobs.max_pages);

	if (total <= max && here <= READ_ONCE(upm_knobs.domain_max_pages) &&
	    (may_crowd || upm_owner_may(own, total, max)))
		return true;
	pages_unreserve(dom);
	return false;
}

/*
 * Puts @entry into hash and list, or returns another one with its key. One that is
 * closed gives up its place in the hash; it stays in the list, where it is
 * still found as a successor, and by the sweep. No entry is freed meanwhile: the
 * lock is held.
 */
static struct upm_entry *entry_publish(struct upm_domain *dom,
				       struct upm_entry *entry,
				       struct upm_entry *prev)
{
	struct upm_entry *old;

	lockdep_assert_held(&dom->lock);
	old = rhashtable_lookup_get_insert_fast(&dom->index, &entry->node,
						index_params);
	if (IS_ERR(old))
		return old;
	if (old && (!upm_entry_closed(old) ||
		    rhashtable_replace_fast(&dom->index, &old->node,
					    &entry->node, index_params)))
		return old;
	list_add_rcu(&entry->list, prev ? &prev->list : dom->entries.prev);
	return NULL;
}

/**
 * upm_index_insert() - publish a shared page
 * @dom: domain
 * @entry: has hash and page, the page its content and one reference
 * @prev: entry to stand behind, held by the caller, or NULL
 * @may_crowd: the caller need not leave anything to others
 *
 * Return: @entry, with a second reference on its page, that of the caller;
 * another entry with the same key, its page referenced (@entry is unchanged);
 * ERR_PTR(-ENOSPC) at a limit; ERR_PTR(-EAGAIN) if the other entry just died;
 * ERR_PTR(-ENOMEM and others) from the hash table.
 */
struct upm_entry *upm_index_insert(struct upm_domain *dom,
				   struct upm_entry *entry,
				   struct upm_entry *prev, bool may_crowd)
{
	struct upm_entry *old;

	if (!pages_reserve(dom, may_crowd))
		return ERR_PTR(-ENOSPC);
	page_mark(entry->page);
	page_set_domain(entry->page, dom);
	__SetPageUptodate(entry->page);	/* content before reference */
	get_page(entry->page);

	/*
	 * Who finds the entry may insert behind it, so it goes into hash and
	 * list under one hold of the lock. Who finds it by its hash in between,
	 * without the lock, finds no successor: it is linked to itself.
	 */
	INIT_LIST_HEAD(&entry->list);
	rcu_read_lock();
	spin_lock(&dom->lock);
	old = entry_publish(dom, entry, prev);
	spin_unlock(&dom->lock);
	if (!IS_ERR_OR_NULL(old) && !entry_tryget(old))
		old = ERR_PTR(-EAGAIN);
	rcu_read_unlock();
	if (!old) {
		/* Nobody kills it yet: the caller's reference is one too many. */
		upm_lru_add(&upm_index_lru, &entry->lru);
		return entry;
	}

	put_page(entry->page);
	set_page_private(entry->page, 0);
	pages_unreserve(dom);
	return old;
}

static void reap_dead(struct work_struct *work)
{
	struct llist_node *list = llist_del_all(&dead_entries);
	struct upm_entry *entry, *next;

	if (!list)
		return;
	synchronize_rcu();
	llist_for_each_entry_safe(entry, next, list, dead)
		kmem_cache_free(entry_cache, entry);
}

/* Nobody finds @entry by its hash again. */
void upm_index_unhash(struct upm_domain *dom, struct upm_entry *entry)
{
	lockdep_assert_held(&dom->lock);
	/* -ENOENT: it was closed, see entry_publish(). */
	rhashtable_remove_fast(&dom->index, &entry->node, index_params);
}

/* Entries were killed: their memory goes after a grace period. */
void upm_index_reap(void)
{
	queue_work(upm_unbound_wq, &reap_work);
}

/*
 * Take @entry out if nobody maps or holds its page. The page comes back with a count
 * of one, which is the caller's; the caller takes the entry out of its list_lru before
 * it does anything to the page.
 */
struct page *upm_index_kill(struct upm_domain *dom, struct upm_entry *entry)
{
	struct page *page = entry->page;

	lockdep_assert_held(&dom->lock);
	if (!page_ref_freeze(page, 1))
		return NULL;
	WRITE_ONCE(entry->page, NULL);
	upm_index_unhash(dom, entry);
	list_del_rcu(&entry->list);
	set_page_private(page, 0);
	page_ref_unfreeze(page, 1);
	pages_unreserve(dom);
	llist_add(&entry->dead, &dead_entries);
	return page;
}

/* ---- init and exit ---------------------------------------------------------- */

int upm_index_init(struct upm_domain *dom)
{
	get_random_bytes(dom->hash_key, sizeof(dom->hash_key));
	spin_lock_init(&dom->lock);
	mutex_init(&dom->walk_mutex);
	INIT_LIST_HEAD(&dom->entries);
	dom->cursor.page = NULL;
	list_add(&dom->cursor.list, &dom->entries);
	atomic_long_set(&dom->pages, 0);
	return rhashtable_init(&dom->index, &index_params);
}

/*
 * The shrinker may have an eye on entries yet, if their pages are lost: out of its sight
 * they go one by one under the lock, which it needs to touch them.
 */
static void entries_take(struct upm_domain *dom, struct list_head *left)
{
	struct upm_entry *entry;

	spin_lock(&dom->lock);
	list_del(&dom->cursor.list);
	while (!list_empty(&dom->entries)) {
		entry = list_first_entry(&dom->entries, struct upm_entry, list);
		upm_lru_del(&upm_index_lru, &entry->lru);
		list_move(&entry->list, left);
		cond_resched_lock(&dom->lock);
	}
	spin_unlock(&dom->lock);
}

/*
 * Ends the index. No call, sweep or lookup of this domain runs or can begin.
 * Pages that are still mapped live on by their mappings, marked as orphans.
 */
void upm_index_destroy(struct upm_domain *dom)
{
	struct upm_entry *entry, *next;
	LIST_HEAD(left);

	entries_take(dom, &left);
	/* First: until then a worker may move entries to a table of another size. */
	rhashtable_destroy(&dom->index);
	list_for_each_entry_safe(entry, next, &left, list) {
		INIT_LIST_HEAD(&entry->page->lru);
		set_page_private(entry->page,
				 ORPHAN_TAG ^ page_to_pfn(entry->page));
		put_page(entry->page);
		pages_unreserve(dom);
		kmem_cache_free(entry_cache, entry);
	}
}

int upm_index_global_init(void)
{
	BUILD_BUG_ON(sizeof(struct upm_entry) > 56);
	get_random_bytes(&page_tag, sizeof(page_tag));
	entry_cache = KMEM_CACHE(upm_entry, 0);
	return entry_cache ? 0 : -ENOMEM;
}

void upm_index_global_exit(void)
{
	flush_work(&reap_work);
	reap_dead(NULL);
	WARN_ON_ONCE(atomic_long_read(&index_pages));
	list_lru_destroy(&upm_index_lru);
	kmem_cache_destroy(entry_cache);
}
