/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * UPM: the module's own interfaces, one block per file, lowest first.
 *
 * DOC: locks and lifetimes
 *
 * Lock order, outermost first:
 *
 *	upm_domains_mutex		domain table (add, remove)
 *	  owners_mutex			owner.c, its list
 *	domain->walk_mutex		one sweep of a domain at a time
 *	mmap_lock of the target		one batch of an advise, one window of a load
 *	  vma lock (6.4 and newer)	by vm_flags_clear(), before the freeze
 *	    folio locks			taken by trylock in migrate_vma_setup()
 *	      domain->lock		spinlock, list of entries
 *	        rhashtable bucket	hash of entries
 *	        list_lru's lock		entries by memory cgroup
 *
 * An advise never holds the first three while it holds an mmap_lock, and a load holds
 * none of all these while it reads the file or copies to its caller (load.c). The
 * shrinker, which may run under any mmap_lock, comes from the list_lru's lock and
 * takes domain->lock by trylock only. Nothing is allocated with GFP flags that may
 * reclaim, and no hash or comparison is made, under a spinlock; nothing at all is
 * allocated that may reclaim while pages are frozen, since reclaim could then wait
 * for a folio that we hold.
 *
 * Lifetimes:
 *
 * - A domain lives as long as its references: one of the table, one of each
 *   running call, one of each domain descriptor. The table drops its own when
 *   the domain has no entry left (upm_domains_reap()) or at module exit.
 * - An entry is freed only by who froze its page at a count of one, the
 *   index's own reference (or at module exit, when no call can run). So who
 *   holds a reference on the page of an entry may use the entry. Its memory
 *   goes after a grace period, so that readers under RCU may look at it.
 * - A shared page belongs to the index by one reference and to each mapping by
 *   one more. It outlives its entry when it is still mapped at module exit, and
 *   is then freed by the last unmap as any other page.
 */
#ifndef UPM_KMOD_UPM_H
#define UPM_KMOD_UPM_H

#include <linux/cred.h>
#include <linux/fs.h>
#include <linux/kobject.h>
#include <linux/llist.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/refcount.h>
#include <linux/rhashtable-types.h>
#include <linux/spinlock.h>
#include <linux/types.h>

#include "compat/probed.h"
#include "uapi/upm.h"

/* Pages of one batch: an array element each, a page table's worth at most. */
#define UPM_BATCH_MAX 512U

/*
 * A shared page with this many references takes no more, and another one with the
 * same bytes takes its place in the index, as with KSM's max_page_sharing. The
 * limit keeps _refcount from overflowing: fork multiplies the mappings that one
 * process has, but if each of PID_MAX_LIMIT (2^22) processes had this many, they
 * would be 2^30.
 */
#define UPM_SHARING_MAX 256

/*
 * A page of a file that more mappings share is left alone: merging it frees
 * nothing as long as one of them stays, and to freeze it is to take it from all of
 * them for a while, whoever they are.
 */
#define UPM_FILE_MAPPINGS_MAX 64

/*
 * The same for an anonymous page that so many processes share since a fork: to freeze
 * it takes a walk over all of them, under the lock. It is shared as it is, and a
 * second copy would be one more page until the last of them lets the first one go.
 */
#define UPM_ANON_MAPPINGS_MAX 8

/* ---- knobs.c: what an administrator sets ------------------------------ */

enum upm_policy {
	UPM_POLICY_CONTAINER,	/* as uid, and the pid namespace */
	UPM_POLICY_UID,		/* user namespace and effective uid */
	UPM_POLICY_CGROUP,	/* cgroup at domain_cgroup_depth */
	UPM_POLICY_GLOBAL,	/* one domain for all */
	UPM_POLICY_NR
};

enum upm_charge_to {
	UPM_CHARGE_FIRST,	/* the group of the process that inserts a page */
	UPM_CHARGE_DOMAIN,	/* that of the domain, if it has one */
	UPM_CHARGE_NR
};

struct upm_knobs {
	bool enabled;
	bool charge;		/* shared pages count for a memory cgroup: */
	enum upm_charge_to charge_to;
	bool file_pages;	/* merge clean pages of private file mappings */
	bool merge_across_nodes;
	unsigned int batch_pages;
	unsigned int domain_cgroup_depth; /* 0: none named */
	unsigned int sweep_ms;
	unsigned int max_domains;
	unsigned long max_pages;
	unsigned long domain_max_pages;
	enum upm_policy domain_policy;
};

extern struct upm_knobs upm_knobs;

void upm_knobs_init(void);

/* ---- stats.c: what happened since the module was loaded --------------- */

/* Phases of a batch, for the split of its cost. */
enum upm_phase {
	UPM_PHASE_SCAN,		/* look at the page table */
	UPM_PHASE_FREEZE,
	UPM_PHASE_FIND,		/* compare, hash, look up, copy */
	UPM_PHASE_MAP,
	UPM_PHASE_FINISH,
	UPM_PHASE_NR
};

struct upm_totals {
	atomic64_t calls;
	atomic64_t batches;
	atomic64_t merged;
	atomic64_t inserted;
	atomic64_t zero;
	atomic64_t unmerged;
	atomic64_t successors;	/* found by order, without a hash */
	atomic64_t freed;	/* shared pages that nobody mapped any more */
	atomic64_t skipped[UPM_SKIP_NR];
	atomic64_t loads;	/* calls, which are no part of the above */
	atomic64_t loaded_bytes;
	atomic64_t copied_bytes; /* of these, in pages that did not come to share */
	atomic64_t phase_ns[UPM_PHASE_NR];
	atomic64_t lock_ns;	/* mmap_lock held for writing, sum */
	atomic64_t lock_ns_max;	/* the same, longest batch */
};

extern struct upm_totals upm_totals;

void upm_totals_max(atomic64_t *max, u64 value);
void upm_totals_reset(void);

/* ---- owner.c: who answers for domains and pages ------------------------ */

struct upm_owner {
	struct list_head link;	/* under owners_mutex, and so is refs */
	unsigned int refs;	/* domains that count for it */
	unsigned int named;	/* under upm_domains_mutex */
	atomic_long_t pages;
	struct user_namespace *ns; /* referenced */
	kuid_t uid;		/* invalid: all of the namespace */
};

struct upm_owner *upm_owner_get(const struct cred *cred);
void upm_owner_put(struct upm_owner *owner);
bool upm_owner_may(unsigned long own, unsigned long total, unsigned long max);

/* ---- bytes.c: what a page holds ---------------------------------------- */

#define UPM_KEY_WORDS 8

struct upm_domain;

void upm_bytes_init(void);
int upm_bytes_equal(const void *a, const void *b);
int upm_bytes_zero(const void *a);
bool upm_page_readable(struct page *page, const void *bytes);
u64 upm_bytes_hash(const struct upm_domain *dom, const void *bytes, int nid);

/* ---- index.c: shared pages of one domain ------------------------------ */

/*
 * One shared page. 56 bytes, and 11 to 22 bytes of hash buckets: less than 80
 * for each 4 KiB page.
 */
struct upm_entry {
	struct rhash_head node;
	struct list_head list;	/* order of insertion: successors */
	struct list_head lru;	/* of the cgroup that it is charged to */
	struct page *page;	/* NULL: dead, or the sweep's cursor */
	union {
		u64 hash;	/* key: content and, if it matters, the node */
		struct llist_node dead; /* after removal */
	};
};

struct shrink_control;

extern struct list_lru upm_index_lru;

int upm_index_global_init(void);
void upm_index_global_exit(void);
int upm_index_init(struct upm_domain *dom);
void upm_index_destroy(struct upm_domain *dom);

struct upm_entry *upm_entry_alloc(gfp_t gfp);
void upm_entry_free(struct upm_entry *entry);

/*
 * Returns true if the page of @entry, which the caller holds, is for nobody else: it has
 * its mappings, or it has a memory error. Then it is not looked at either.
 */
static inline bool upm_entry_closed(const struct upm_entry *entry)
{
	return (unsigned int)page_ref_count(entry->page) >= UPM_SHARING_MAX ||
	       PageHWPoison(entry->page);
}

struct upm_entry *upm_index_get(struct upm_domain *dom, u64 hash);
struct upm_entry *upm_index_get_next(struct upm_domain *dom,
				     struct upm_entry *prev);
struct upm_entry *upm_index_insert(struct upm_domain *dom,
				   struct upm_entry *entry,
				   struct upm_entry *prev, bool may_crowd);

struct page *upm_index_kill(struct upm_domain *dom, struct upm_entry *entry);
void upm_index_unhash(struct upm_domain *dom, struct upm_entry *entry);
void upm_index_reap(void);
u64 upm_index_metadata(struct upm_domain *dom);
bool upm_page_is_shared(struct page *page);
bool upm_page_is_orphan(struct page *page);
struct upm_domain *upm_page_domain(const struct page *page);

/* ---- walk.c: walks over them ------------------------------------------- */

/* What a domain shares. */
struct upm_census {
	unsigned long shared;	/* mapped at least once */
	unsigned long sharing;	/* further mappings */
	unsigned long unused;
};

/* What a sweep did, and saw. */
struct upm_swept {
	unsigned long visited;
	unsigned long freed;
	unsigned long broken;	/* with a memory error, and mapped */
	unsigned long lost;	/* the same, and only held by somebody */
	bool complete;		/* it came to the end of the domain */
};

int upm_index_count(struct upm_domain *dom, struct upm_census *census);
void upm_index_sweep(struct upm_domain *dom, struct upm_swept *swept);
unsigned long upm_index_shrink(struct shrink_control *sc);

/* ---- domain.c --------------------------------------------------------- */

enum upm_domain_kind {
	UPM_DOMAIN_CONTAINER,
	UPM_DOMAIN_UID,
	UPM_DOMAIN_CGROUP,
	UPM_DOMAIN_GLOBAL,
	UPM_DOMAIN_ALONE,	/* one process */
	UPM_DOMAIN_NAMED,
};

/* What it points to is referenced by the domain. */
struct upm_domain_key {
	enum upm_domain_kind kind;
	union {
		struct {
			struct user_namespace *ns;
			struct pid_namespace *pid_ns; /* of a container */
			kuid_t uid;
		} user;
		struct pid *alone;
		u64 cgroup;
		u8 name[16];
	};
};

struct upm_domain {
	refcount_t ref;
	u32 id;			/* name of its folder in sysfs */
	u32 key_hash;
	struct upm_domain_key key;
	struct upm_owner *owner; /* for whom it and its pages count */
	struct mem_cgroup *memcg; /* that may pay for it, or NULL */
	struct hlist_node link;	/* in the table; RCU */
	struct list_head dead;	/* after that, until it is destroyed */
	struct rcu_head rcu;
	struct kobject kobj;

	u64 hash_key[UPM_KEY_WORDS]; /* random */
	struct rhashtable index;
	spinlock_t lock;	/* entries, for writers; readers use RCU */
	struct list_head entries;
	bool kicked;		/* a user of it may just have gone */
	bool stirred;		/* a call worked in it since the last sweep */
	struct mutex walk_mutex; /* of sweeps: cursor, rest, resting, lost_seen */
	struct upm_entry cursor;
	unsigned int rest;	/* periodic sweeps to sit out after a vain one, */
	unsigned int resting;	/* and those of them to come */
	unsigned long lost_seen; /* lost pages behind the cursor, */
	unsigned long lost;	/* and those of the last whole sweep: see index.c */
	atomic_long_t pages;
};

void upm_domains_init(struct kobject *folder, struct kobj_type *type);
void upm_domains_exit(void);
struct upm_domain *upm_domain_of_task(struct task_struct *task);
struct upm_domain *upm_domain_of_name(const u8 name[16]);
struct upm_domain *upm_domain_of_id(u32 id);
void upm_domain_get(struct upm_domain *dom);
void upm_domain_put(struct upm_domain *dom);
void upm_domain_release(struct kobject *kobj);
struct upm_domain *upm_domain_next(struct upm_domain *dom);
int upm_domain_census(struct upm_domain *dom, struct upm_census *census);
void upm_domains_reap(void);

/* ---- charge.c: who pays ------------------------------------------------ */

struct mem_cgroup *upm_charge_of_domain(const struct upm_domain_key *key,
					struct task_struct *task);
struct mem_cgroup *upm_charge_group(struct upm_domain *dom,
				    struct mm_struct *mm);

/* ---- sweep.c: shared pages that nobody maps --------------------------- */

int upm_sweep_init(void);
void upm_sweep_exit(void);
void upm_sweep_kick(struct upm_domain *dom);
void upm_sweep_retime(void);
void upm_sweep_now(void);

/* ---- scan.c: what the page table says --------------------------------- */

enum upm_page_state {
	UPM_PAGE_LEFT,		/* stays as it is, for a reason */
	UPM_PAGE_ALONE,		/* the same, and is not to be frozen */
	UPM_PAGE_CANDIDATE,
	UPM_PAGE_ZERO,		/* is the kernel's zero page */
	UPM_PAGE_MERGED,	/* is a shared page of ours */
	UPM_PAGE_ORPHAN,	/* was one, before the module was loaded again */
	UPM_FOUND_ZERO,		/* nothing takes its place */
	UPM_FOUND_ZEROED,	/* the same; splitting its huge page did it */
	UPM_FOUND_KNOWN,	/* a shared page takes its place */
	UPM_FOUND_NEW,		/* the same, and it was made for it */
	UPM_FOUND_LATER,	/* is to be made by the next batch */
};

/* What is known of a page of a batch. */
struct upm_verdict {
	u8 state;		/* enum upm_page_state */
	u8 reason;		/* enum upm_skip, of a page that stays */
};

static inline struct upm_verdict upm_page_is(enum upm_page_state state)
{
	return (struct upm_verdict){ .state = state };
}

static inline struct upm_verdict upm_page_left(enum upm_skip reason)
{
	return (struct upm_verdict){ .state = UPM_PAGE_LEFT, .reason = reason };
}

static inline struct upm_verdict upm_page_alone(enum upm_skip reason)
{
	return (struct upm_verdict){ .state = UPM_PAGE_ALONE, .reason = reason };
}

/* One look at a range of one VMA. */
struct upm_scan {
	unsigned int nr;	/* pages looked at; see upm_scan_range() */
	unsigned int first;	/* candidate; == nr: none */
	unsigned int last;	/* candidate, inclusive */
	unsigned int orphans;
	bool foreign_special;	/* a PTE that only VM_MIXEDMAP makes legal */
	struct upm_verdict page[UPM_BATCH_MAX];
};

void upm_scan_range(struct vm_area_struct *vma, unsigned long addr,
		    unsigned int nr, struct upm_scan *scan);
void upm_scan_refuse(struct upm_scan *scan, enum upm_skip reason);
void upm_scan_empty(struct mm_struct *mm, unsigned long addr, unsigned int nr,
		    unsigned long *empty);
bool upm_vma_refused(struct vm_area_struct *vma, enum upm_skip *reason);
pte_t *upm_pte_table(struct mm_struct *mm, unsigned long addr,
		     struct upm_verdict *all);
struct page *upm_pte_page(pte_t pte);

/* ---- huge.c: a huge page, frozen as one -------------------------------- */

#ifdef UPM_HAVE_MIGRATE_COMPOUND
bool upm_huge_next(struct vm_area_struct *vma, unsigned long addr,
		   unsigned long end, unsigned int *nr);
struct page *upm_huge_frozen(unsigned long *src);
void upm_huge_zap(struct vm_area_struct *vma, unsigned long addr);
#else
static inline bool upm_huge_next(struct vm_area_struct *vma,
				 unsigned long addr, unsigned long end,
				 unsigned int *nr)
{
	return false;
}

static inline struct page *upm_huge_frozen(unsigned long *src)
{
	return NULL;
}

static inline void upm_huge_zap(struct vm_area_struct *vma, unsigned long addr)
{
}
#endif

/* ---- find.c: the shared page for some bytes --------------------------- */

/* A page that may become shared, with its entry. */
struct upm_spare {
	struct page *page;
	struct upm_entry *entry;
};

struct upm_finder {
	struct upm_domain *dom;
	struct mem_cgroup *memcg; /* to charge in place of the caller's, or NULL */
	struct upm_entry *cursor; /* last hit; its page is referenced by the caller */
	bool kept;		/* or by this: see find.c */
	u64 resting;		/* hash of the cursor that a rest let go, or 0 */
	unsigned int successors; /* hits without a hash */
	unsigned int nr_spare;
	unsigned int want_spare;
	bool no_spare;		/* even one could not be had */
	bool may_crowd;		/* leave nothing to others */
	bool known;		/* make nothing: UPM_FOUND_LATER in its place */
	struct upm_spare spare[UPM_BATCH_MAX];
};

void upm_finder_init(struct upm_finder *f, struct upm_domain *dom,
		     struct mm_struct *mm);
void upm_finder_refill(struct upm_finder *f);
void upm_finder_release(struct upm_finder *f);
void upm_finder_keep(struct upm_finder *f);
void upm_finder_rest(struct upm_finder *f);
void upm_finder_resume(struct upm_finder *f);
struct page *upm_finder_page(struct upm_finder *f);
struct upm_verdict upm_find(struct upm_finder *f, struct page *page, bool anon,
			    struct page **shared);
struct upm_verdict upm_find_or_give(struct upm_finder *f, struct page **page,
				    struct page **shared);

/* ---- call.c: the way over a range, and over all processes ---------------- */

/* One call: whose memory, which part, what became of it. */
struct upm_call {
	struct mm_struct *mm;
	struct task_struct *task; /* whose mm it was at the start */
	struct upm_domain *dom;
	unsigned long addr;	/* next page to work on */
	unsigned long end;
	struct upm_ioc_counts counts;
};

int upm_call_stop(const struct upm_call *call, bool merging);
void upm_call_count(struct upm_call *call, const struct upm_verdict *pages,
		    unsigned int nr);
void upm_call_skip(struct upm_call *call, enum upm_skip reason,
		   unsigned long pages);
struct vm_area_struct *upm_call_vma(struct upm_call *call, unsigned long *end);
struct vm_area_struct *upm_call_mergeable(struct upm_call *call,
					  unsigned int *nr);
bool upm_vma_may_hold_merged(struct vm_area_struct *vma);
struct task_struct **upm_tasks_get(unsigned int *nr);

/* ---- fill.c: shared pages where nothing is yet --------------------------- */

/* Pages of one fill. */
#define UPM_FILL_MAX 64U

/*
 * What a VMA with shared pages carries. VM_SOFTDIRTY, since a shared PTE has
 * lost the soft-dirty bit of the page that it replaced: who tracks writes
 * (CRIU) shall see too many rather than too few. VM_MIXEDMAP, where the kernel
 * checks more than it needs: see merge.c.
 */
#ifdef CONFIG_DEBUG_VM
#define UPM_VM_MERGED (VM_MIXEDMAP | VM_SOFTDIRTY)
#else
#define UPM_VM_MERGED VM_SOFTDIRTY
#endif

bool upm_fill_refused(struct vm_area_struct *vma, enum upm_skip *reason);
void upm_fill(struct vm_area_struct *vma, unsigned long addr, unsigned int nr,
	      struct page **pages, unsigned long *wanted);

/* ---- broken.c: shared pages with a memory error -------------------------- */

void upm_broken_take(void);

/* ---- prepare.c, merge.c, load.c, dry_run.c, unmerge.c: the work ---------- */

void upm_prepare(struct vm_area_struct *vma, unsigned long addr,
		 struct upm_scan *scan);
int upm_merge(struct upm_call *call);
int upm_load(struct upm_call *call, struct file *file,
	     struct upm_ioc_load *arg);
int upm_dry_run(struct upm_call *call);
int upm_unmerge(struct upm_call *call);
int upm_unmerge_all(void);

/* ---- sysfs.c: /sys/kernel/upm ------------------------------------------ */

extern struct kobj_type upm_domain_ktype;

struct kobject *upm_sysfs_init(void);
void upm_sysfs_exit(void);
int upm_sysfs_files_init(void);
void upm_sysfs_files_exit(void);

/* ---- device.c: /dev/upm ------------------------------------------------ */

int upm_device_init(void);
void upm_device_exit(void);

#endif /* UPM_KMOD_UPM_H */
