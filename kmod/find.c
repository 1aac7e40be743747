// SPDX-License-Identifier: GPL-2.0-only
/*
 * Finding the shared page for the bytes of a frozen page, or making one.
 *
 * A finder lives as long as one call. It remembers the last hit, whose
 * successor is tried first (see index.c), and keeps spare pages, which it
 * allocates while nothing is locked, so that nothing has to be allocated while
 * pages are frozen.
 *
 * DOC: one reference for each page
 *
 * The reference on a page that was found is its caller's. The last hit is the finder's
 * by the same one, as long as the caller has it: so the caller says when it is about to
 * give back what it got, and the finder then takes a reference of its own on the last
 * hit (upm_finder_keep()), or lets it go (upm_finder_rest()).
 */
#include <linux/capability.h>
#include <linux/highmem.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/sched/mm.h>

#include "upm.h"

/* A page whose bytes are looked for. */
struct upm_source {
	struct page *page;
	struct page **given;	/* where it may be exchanged, or NULL */
	const void *bytes;
	int nid;		/* node of the shared page, or NUMA_NO_NODE */
};

/* Spare pages to begin with: the second process of a kind needs none. */
#define SPARE_FEW 8U

/*
 * What the finder allocates is charged to the group that pays for @dom, or to that of the
 * process of @mm, also for an agent.
 */
void upm_finder_init(struct upm_finder *f, struct upm_domain *dom,
		     struct mm_struct *mm)
{
	f->dom = dom;
	f->memcg = upm_charge_group(dom, mm);
	f->cursor = NULL;
	f->kept = false;
	f->resting = 0;
	f->successors = 0;
	f->nr_spare = 0;
	/* The first process of a kind finds nothing, the second one everything. */
	f->want_spare = atomic_long_read(&dom->pages) ?
				SPARE_FEW : READ_ONCE(upm_knobs.batch_pages);
	f->no_spare = false;
	f->known = false;
	f->may_crowd = has_capability_noaudit(current, CAP_SYS_RESOURCE);
}

/* How pages are allocated that may become shared: nobody is ended for them. */
static gfp_t finder_gfp(void)
{
	gfp_t gfp = GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN;

	return READ_ONCE(upm_knobs.charge) ? gfp | __GFP_ACCOUNT : gfp;
}

/* From here on, and until finder_uncharge(), what is allocated is charged as it should. */
static struct mem_cgroup *finder_charge(struct upm_finder *f)
{
	return f->memcg ? set_active_memcg(f->memcg) : NULL;
}

static void finder_uncharge(struct upm_finder *f, struct mem_cgroup *old)
{
	if (f->memcg)
		set_active_memcg(old);
}

/* A page that may become shared, or NULL. May sleep. */
struct page *upm_finder_page(struct upm_finder *f)
{
	struct mem_cgroup *old = finder_charge(f);
	struct page *page = alloc_page(finder_gfp());

	finder_uncharge(f, old);
	return page;
}

static bool spare_alloc(struct upm_spare *spare, gfp_t gfp)
{
	spare->entry = upm_entry_alloc(gfp);
	if (!spare->entry)
		return false;
	spare->page = alloc_page(gfp);
	if (!spare->page)
		upm_entry_free(spare->entry);
	return spare->page;
}

/* Fill up the spare pages. May sleep; never ends a process for memory. */
void upm_finder_refill(struct upm_finder *f)
{
	struct mem_cgroup *old = finder_charge(f);
	gfp_t gfp = finder_gfp();

	while (f->nr_spare < f->want_spare &&
	       spare_alloc(&f->spare[f->nr_spare], gfp))
		f->nr_spare++;
	finder_uncharge(f, old);
	f->no_spare = !f->nr_spare;
}

/* Forget the last hit. */
static __always_inline void cursor_drop(struct upm_finder *f)
{
	if (f->kept)
		put_page(f->cursor->page);
	f->kept = false;
	f->cursor = NULL;
}

/* The caller had given back all pages that it found, and kept or rested the finder. */
void upm_finder_release(struct upm_finder *f)
{
	cursor_drop(f);
	while (f->nr_spare) {
		struct upm_spare *spare = &f->spare[--f->nr_spare];

		__free_page(spare->page);
		upm_entry_free(spare->entry);
	}
	mem_cgroup_put(f->memcg);
}

/* The caller is about to give back the pages that it found: keep the last one. */
void upm_finder_keep(struct upm_finder *f)
{
	if (!f->cursor || f->kept)
		return;
	get_page(f->cursor->page);
	f->kept = true;
}

/*
 * The same, but let go of the last one, since the caller is about to wait for others,
 * maybe for ever: its page shall not be held meanwhile.
 */
void upm_finder_rest(struct upm_finder *f)
{
	if (!f->cursor)
		return;
	f->resting = f->cursor->hash;
	cursor_drop(f);
}

/* After a rest: go on behind the last hit, if it is still there. */
void upm_finder_resume(struct upm_finder *f)
{
	if (f->resting)
		f->cursor = upm_index_get(f->dom, f->resting);
	f->kept = f->cursor;
	f->resting = 0;
}

/* The last spare, its page on node @nid if that matters, or NULL. */
static struct upm_spare *spare_peek(struct upm_finder *f, int nid)
{
	gfp_t gfp = GFP_NOWAIT | __GFP_THISNODE | __GFP_NOWARN;
	struct mem_cgroup *old;
	struct upm_spare *spare;
	struct page *page;

	if (!f->nr_spare)
		return NULL;
	spare = &f->spare[f->nr_spare - 1];
	if (nid == NUMA_NO_NODE || page_to_nid(spare->page) == nid)
		return spare;
	if (READ_ONCE(upm_knobs.charge))
		gfp |= __GFP_ACCOUNT;
	old = finder_charge(f);
	page = alloc_pages_node(nid, gfp, 0);
	finder_uncharge(f, old);
	if (!page)
		return NULL;
	__free_page(spare->page);
	spare->page = page;
	return spare;
}

/*
 * Returns true if the page of @entry has the bytes of @from, and can be read. An error of
 * its memory is reported.
 */
static bool entry_matches(struct upm_entry *entry,
			  const struct upm_source *from)
{
	const void *shared;
	int equal;

	if (from->nid != NUMA_NO_NODE && page_to_nid(entry->page) != from->nid)
		return false;
	shared = kmap_local_page(entry->page);
	equal = upm_bytes_equal(from->bytes, shared);
	if (unlikely(equal < 0))
		upm_page_readable(entry->page, shared);
	kunmap_local(shared);
	return equal > 0;
}

/* A hit, whose reference is the caller's: the cursor needs none of its own for now. */
static struct page *hit(struct upm_finder *f, struct upm_entry *entry)
{
	cursor_drop(f);
	f->cursor = entry;
	return entry->page;
}

/* The successor of the last hit, if it has these bytes. */
static struct upm_entry *find_successor(struct upm_finder *f,
					const struct upm_source *from)
{
	struct upm_entry *entry;

	if (!f->cursor)
		return NULL;
	entry = upm_index_get_next(f->dom, f->cursor);
	if (!entry || (!upm_entry_closed(entry) && entry_matches(entry, from)))
		return entry;
	put_page(entry->page);
	return NULL;
}

/*
 * Give the new shared page its bytes: those of @from->page by a copy; or that page
 * itself, for which the caller gets the spare one. Not where somebody else has a
 * reference on it, and so might write to it yet.
 */
static void spare_fill(struct upm_spare *spare, struct upm_source *from)
{
	if (from->given && page_ref_count(*from->given) == 1)
		swap(spare->page, *from->given);
	else
		copy_highpage(spare->page, from->page);
	spare->entry->page = spare->page;
}

/* It did not become a shared page. */
static void spare_back(struct upm_spare *spare, struct upm_source *from)
{
	if (spare->page == from->page)
		swap(spare->page, *from->given);
}

/*
 * Insert new content. Another call may insert the same just now: then theirs is
 * taken.
 */
static struct upm_verdict insert(struct upm_finder *f, struct upm_source *from,
				 u64 hash, struct page **shared)
{
	struct upm_spare *spare;
	struct upm_entry *entry;

	if (f->known)
		return upm_page_is(UPM_FOUND_LATER);
	spare = spare_peek(f, from->nid);
	if (!spare) {
		if (f->no_spare || f->nr_spare)
			return upm_page_left(UPM_SKIP_NOMEM);
		f->want_spare = READ_ONCE(upm_knobs.batch_pages);
		return upm_page_is(UPM_FOUND_LATER);
	}
	spare_fill(spare, from);
	spare->entry->hash = hash;
	do {
		entry = upm_index_insert(f->dom, spare->entry, f->cursor,
					 f->may_crowd);
	} while (entry == ERR_PTR(-EAGAIN));

	if (entry == spare->entry) {
		f->nr_spare--;
		*shared = hit(f, entry);
		return upm_page_is(UPM_FOUND_NEW);
	}
	spare_back(spare, from);
	if (entry == ERR_PTR(-ENOSPC))
		return upm_page_left(UPM_SKIP_LIMIT);
	if (IS_ERR(entry))
		return upm_page_left(UPM_SKIP_NOMEM);
	if (entry_matches(entry, from)) {
		*shared = hit(f, entry);
		return upm_page_is(UPM_FOUND_KNOWN);
	}
	put_page(entry->page);
	return upm_page_left(UPM_SKIP_COLLISION);
}

static struct upm_verdict find(struct upm_finder *f, struct upm_source *from,
			       struct page **shared)
{
	struct upm_entry *entry = find_successor(f, from);
	u64 hash;

	if (entry) {
		f->successors++;
		*shared = hit(f, entry);
		return upm_page_is(UPM_FOUND_KNOWN);
	}
	if (!upm_page_readable(from->page, from->bytes))
		return upm_page_left(UPM_SKIP_BUSY);
	hash = upm_bytes_hash(f->dom, from->bytes, from->nid);
	entry = upm_index_get(f->dom, hash);
	if (!entry)
		return insert(f, from, hash, shared);
	if (!entry_matches(entry, from)) {
		put_page(entry->page);
		return upm_page_left(UPM_SKIP_COLLISION);
	}
	*shared = hit(f, entry);
	return upm_page_is(UPM_FOUND_KNOWN);
}

static struct upm_verdict find_mapped(struct upm_finder *f, struct page *page,
				      struct page **given, bool zero,
				      struct page **shared)
{
	struct upm_source from = {
		.page = page,
		.given = given,
		.bytes = kmap_local_page(page),
		.nid = READ_ONCE(upm_knobs.merge_across_nodes) ?
			       NUMA_NO_NODE : page_to_nid(page),
	};
	struct upm_verdict found = upm_page_left(UPM_SKIP_BUSY);

	if (zero && upm_bytes_zero(from.bytes) > 0)
		found = upm_page_is(UPM_FOUND_ZERO);
	else if (!PageHWPoison(page))
		found = find(f, &from, shared);
	kunmap_local(from.bytes);
	return found;
}

/**
 * upm_find() - the shared page with the bytes of a page
 * @f: finder
 * @page: frozen: its bytes do not change
 * @anon: of an anonymous VMA, where a missing page reads as zeros
 * @shared: the shared page, with a reference for the caller, for
 *	UPM_FOUND_KNOWN and UPM_FOUND_NEW
 *
 * Does not sleep and does not allocate from what reclaim must free first.
 *
 * Return: UPM_FOUND_KNOWN; UPM_FOUND_NEW if it was made now; UPM_FOUND_ZERO if
 * none is needed; UPM_FOUND_LATER if the spare pages are used up (refill and
 * ask again), or where the finder is to make nothing; UPM_PAGE_LEFT with the
 * reason, also if its memory is broken.
 */
struct upm_verdict upm_find(struct upm_finder *f, struct page *page, bool anon,
			    struct page **shared)
{
	return find_mapped(f, page, NULL, anon, shared);
}

/**
 * upm_find_or_give() - the shared page with the bytes of a page of the caller's own
 * @f: finder
 * @page: from upm_finder_page(), unlocked. It may become the shared page; then
 *	*@page is another one, of any content.
 * @shared: as for upm_find()
 *
 * A page of zeros needs no shared page. Return: as upm_find().
 */
struct upm_verdict upm_find_or_give(struct upm_finder *f, struct page **page,
				    struct page **shared)
{
	return find_mapped(f, *page, page, true, shared);
}
