// SPDX-License-Identifier: GPL-2.0-only
/*
 * Domains: pages merge inside one only.
 *
 * DOC: who is in which domain
 *
 * The default domain of a process follows the knob domain_policy at the time of
 * the call: its user namespace, effective uid and pid namespace; the same without
 * the pid namespace; its cgroup at a given depth; or one for all. A process whose
 * effective, real and saved uid differ acts for two users, so its memory is for
 * neither: it has a domain of its own under every policy. A call on another process
 * uses that process's domain, not the caller's, so that an agent of root does not
 * join what root's policy keeps apart. A named domain is made of 16 bytes that its
 * members know. Every domain counts for an owner as long as it lives, and so do its
 * pages, whoever inserts them: a default domain for that of its first process, a
 * named one for that of whoever made it (owner.c).
 *
 * A domain holds a reference on each namespace and on the process in its key, since
 * the address of one that ended may come again with other people in it. The id of
 * a cgroup never comes again.
 */
#include <linux/capability.h>
#include <linux/cgroup.h>
#include <linux/hashtable.h>
#include <linux/jhash.h>
#include <linux/lockdep.h>
#include <linux/memcontrol.h>
#include <linux/pid_namespace.h>
#include <linux/random.h>
#include <linux/rhashtable.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/user_namespace.h>

#include "compat/compat.h"
#include "trace.h"
#include "upm.h"

static DEFINE_HASHTABLE(domain_table, 8);
static DEFINE_MUTEX(upm_domains_mutex);
static unsigned int named_count;	/* under upm_domains_mutex */
static u32 domain_next_id;		/* under upm_domains_mutex */
static u32 domain_hash_seed;
static struct kobject *domains_folder;	/* a folder in it for each domain, */
static struct kobj_type *domain_type;	/* with the files of this type */

static u32 key_hash(const struct upm_domain_key *key)
{
	switch (key->kind) {
	case UPM_DOMAIN_CONTAINER:
	case UPM_DOMAIN_UID:
		return jhash_3words(hash_ptr(key->user.ns, 32),
				    hash_ptr(key->user.pid_ns, 32),
				    __kuid_val(key->user.uid),
				    domain_hash_seed);
	case UPM_DOMAIN_ALONE:
		return jhash_1word(hash_ptr(key->alone, 32), domain_hash_seed);
	case UPM_DOMAIN_CGROUP:
		return jhash_2words((u32)key->cgroup, (u32)(key->cgroup >> 32),
				    domain_hash_seed);
	case UPM_DOMAIN_NAMED:
		return jhash(key->name, sizeof(key->name), domain_hash_seed);
	case UPM_DOMAIN_GLOBAL:
		break;
	}
	return domain_hash_seed;
}

static bool key_equal(const struct upm_domain_key *a,
		      const struct upm_domain_key *b)
{
	if (a->kind != b->kind)
		return false;
	switch (a->kind) {
	case UPM_DOMAIN_CONTAINER:
	case UPM_DOMAIN_UID:
		return a->user.ns == b->user.ns &&
		       a->user.pid_ns == b->user.pid_ns &&
		       uid_eq(a->user.uid, b->user.uid);
	case UPM_DOMAIN_ALONE:
		return a->alone == b->alone;
	case UPM_DOMAIN_CGROUP:
		return a->cgroup == b->cgroup;
	case UPM_DOMAIN_NAMED:
		return !memcmp(a->name, b->name, sizeof(a->name));
	case UPM_DOMAIN_GLOBAL:
		break;
	}
	return true;
}

static void key_pin(const struct upm_domain_key *key)
{
	switch (key->kind) {
	case UPM_DOMAIN_CONTAINER:
		get_pid_ns(key->user.pid_ns);
		fallthrough;
	case UPM_DOMAIN_UID:
		get_user_ns(key->user.ns);
		break;
	case UPM_DOMAIN_ALONE:
		get_pid(key->alone);
		break;
	default:
		break;
	}
}

static void key_unpin(const struct upm_domain_key *key)
{
	switch (key->kind) {
	case UPM_DOMAIN_CONTAINER:
		put_pid_ns(key->user.pid_ns);
		fallthrough;
	case UPM_DOMAIN_UID:
		put_user_ns(key->user.ns);
		break;
	case UPM_DOMAIN_ALONE:
		put_pid(key->alone);
		break;
	default:
		break;
	}
}

static void domain_free_rcu(struct rcu_head *rcu)
{
	kfree(container_of(rcu, struct upm_domain, rcu));
}

/* The last reference to the folder in sysfs goes after the domain itself. */
void upm_domain_release(struct kobject *kobj)
{
	struct upm_domain *dom = container_of(kobj, struct upm_domain, kobj);

	call_rcu(&dom->rcu, domain_free_rcu);
}

static struct upm_domain *domain_find(const struct upm_domain_key *key,
				      u32 hash)
{
	struct upm_domain *dom;

	rcu_read_lock();
	hash_for_each_possible_rcu(domain_table, dom, link, hash) {
		if (key_equal(&dom->key, key) &&
		    refcount_inc_not_zero(&dom->ref)) {
			rcu_read_unlock();
			return dom;
		}
	}
	rcu_read_unlock();
	return NULL;
}

/*
 * May the caller make one more named domain? No owner may have more than a quarter
 * of them without CAP_SYS_RESOURCE, so that one user cannot keep out the others.
 */
static bool named_room(const struct upm_owner *owner)
{
	unsigned int max = READ_ONCE(upm_knobs.max_domains);

	lockdep_assert_held(&upm_domains_mutex);
	if (named_count >= max)
		return false;
	return owner->named < DIV_ROUND_UP(max, 4) || capable(CAP_SYS_RESOURCE);
}

static void named_change(struct upm_domain *dom, int by)
{
	lockdep_assert_held(&upm_domains_mutex);
	if (dom->key.kind != UPM_DOMAIN_NAMED)
		return;
	named_count += by;
	dom->owner->named += by;
}

/*
 * The result has two references: the table's and the caller's. @task is who it is made
 * for, and @cred are its credentials.
 */
static struct upm_domain *domain_create(const struct upm_domain_key *key,
					u32 hash, struct task_struct *task,
					const struct cred *cred)
{
	struct upm_owner *owner = upm_owner_get(cred);
	struct upm_domain *dom;
	int err = -ENOMEM;

	lockdep_assert_held(&upm_domains_mutex);
	if (!owner)
		return ERR_PTR(err);
	/* Only who names domains can run into the limit, not the others. */
	if (key->kind == UPM_DOMAIN_NAMED && !named_room(owner)) {
		err = -ENOSPC;
		goto err_owner;
	}
	dom = kzalloc(sizeof(*dom), GFP_KERNEL_ACCOUNT);
	if (!dom)
		goto err_owner;
	dom->key = *key;
	dom->owner = owner;
	dom->key_hash = hash;
	refcount_set(&dom->ref, 2);
	err = upm_index_init(dom);
	if (err)
		goto err_free;
	key_pin(key);
	dom->memcg = upm_charge_of_domain(key, task);
	dom->id = domain_next_id++;
	err = kobject_init_and_add(&dom->kobj, domain_type, domains_folder,
				   "%u", dom->id);
	if (err)
		goto err_kobj;
	hash_add_rcu(domain_table, &dom->link, hash);
	named_change(dom, 1);
	trace_upm_domain(dom->id, key->kind, true);
	return dom;

err_kobj:
	key_unpin(key);
	mem_cgroup_put(dom->memcg);
	upm_index_destroy(dom);
	kobject_put(&dom->kobj);
	goto err_owner;
err_free:
	kfree(dom);
err_owner:
	upm_owner_put(owner);
	return ERR_PTR(err);
}

/* @task, @cred: for whom it counts if it is new. */
static struct upm_domain *domain_get(const struct upm_domain_key *key,
				     struct task_struct *task,
				     const struct cred *cred)
{
	u32 hash = key_hash(key);
	struct upm_domain *dom = domain_find(key, hash);

	if (dom)
		return dom;
	mutex_lock(&upm_domains_mutex);
	dom = domain_find(key, hash);
	if (!dom)
		dom = domain_create(key, hash, task, cred);
	mutex_unlock(&upm_domains_mutex);
	return dom;
}

/* Nobody else has a reference, or can get one. */
static void domain_remove(struct upm_domain *dom, struct list_head *dead)
{
	lockdep_assert_held(&upm_domains_mutex);
	hash_del_rcu(&dom->link);
	named_change(dom, -1);
	trace_upm_domain(dom->id, dom->key.kind, false);
	list_add(&dom->dead, dead);
}

/*
 * Ends domains that domain_remove() took out. Without the mutex: one grace period
 * for all of them is long enough for others to wait.
 */
static void domains_destroy(struct list_head *dead)
{
	struct upm_domain *dom, *next;

	if (list_empty(dead))
		return;
	synchronize_rcu();		/* for lookups of their keys */
	list_for_each_entry_safe(dom, next, dead, dead) {
		kobject_del(&dom->kobj); /* waits for readers of its files */
		upm_index_destroy(dom);
		key_unpin(&dom->key);
		mem_cgroup_put(dom->memcg);
		upm_owner_put(dom->owner);
		kobject_put(&dom->kobj);
	}
}

static u64 cgroup_at_depth(struct task_struct *task, unsigned int depth)
{
	u64 id = 0;
#ifdef CONFIG_MEMCG
	struct cgroup *cgrp;

	/* Of the memory controller: right with cgroup v1, v2 and both. */
	rcu_read_lock();
	cgrp = task_css(task, memory_cgrp_id)->cgroup;
	if (cgrp->level > depth)
		cgrp = cgroup_ancestor(cgrp, depth);
	id = cgroup_id(cgrp);
	rcu_read_unlock();
#endif
	return id;
}

static bool uids_equal(const struct cred *cred)
{
	return uid_eq(cred->euid, cred->uid) && uid_eq(cred->euid, cred->suid);
}

/* Key by the policy in force; its pointers live as long as @cred and @tgid. */
static void key_of_task(struct upm_domain_key *key, struct task_struct *task,
			const struct cred *cred, struct pid *tgid)
{
	unsigned int depth = READ_ONCE(upm_knobs.domain_cgroup_depth);
	enum upm_policy policy = READ_ONCE(upm_knobs.domain_policy);

	memset(key, 0, sizeof(*key));
	if (!uids_equal(cred)) {
		key->kind = UPM_DOMAIN_ALONE;
		key->alone = tgid;
	} else if (policy == UPM_POLICY_GLOBAL) {
		key->kind = UPM_DOMAIN_GLOBAL;
	} else if (policy == UPM_POLICY_CGROUP && depth) {
		key->kind = UPM_DOMAIN_CGROUP;
		key->cgroup = cgroup_at_depth(task, depth);
	} else {
		key->kind = UPM_DOMAIN_UID;
		key->user.ns = cred->user_ns;
		key->user.uid = cred->euid;
		if (policy == UPM_POLICY_UID)
			return;
		key->kind = UPM_DOMAIN_CONTAINER;
		key->user.pid_ns = ns_of_pid(tgid);
	}
}

/* Default domain of @task, with a reference; ERR_PTR(-ESRCH) if it was reaped. */
struct upm_domain *upm_domain_of_task(struct task_struct *task)
{
	struct pid *tgid = get_task_pid(task, PIDTYPE_TGID);
	struct upm_domain_key key;
	const struct cred *cred;
	struct upm_domain *dom;

	if (!tgid)
		return ERR_PTR(-ESRCH);
	cred = get_task_cred(task);
	key_of_task(&key, task, cred, tgid);
	dom = domain_get(&key, task, cred);
	put_cred(cred);
	put_pid(tgid);
	return dom;
}

/* Named domain, with a reference. */
struct upm_domain *upm_domain_of_name(const u8 name[16])
{
	struct upm_domain_key key = { .kind = UPM_DOMAIN_NAMED };

	memcpy(key.name, name, sizeof(key.name));
	return domain_get(&key, current, current_cred());
}

/* The domain with this id, with a reference, or NULL. */
struct upm_domain *upm_domain_of_id(u32 id)
{
	struct upm_domain *dom;
	int bucket;

	rcu_read_lock();
	hash_for_each_rcu(domain_table, bucket, dom, link) {
		if (dom->id == id && refcount_inc_not_zero(&dom->ref)) {
			rcu_read_unlock();
			return dom;
		}
	}
	rcu_read_unlock();
	return NULL;
}

/* One more reference; the caller has one. */
void upm_domain_get(struct upm_domain *dom)
{
	refcount_inc(&dom->ref);
}

void upm_domain_put(struct upm_domain *dom)
{
	/* Never the last one: that is the table's, see upm_domains_reap(). */
	refcount_dec(&dom->ref);
}

/*
 * The domain behind @dom (NULL: the first), with a reference; the reference on
 * @dom is dropped. A domain that comes or goes meanwhile may be missed.
 */
struct upm_domain *upm_domain_next(struct upm_domain *dom)
{
	unsigned int bucket = 0;
	struct upm_domain *next;
	bool seen = !dom;

	if (dom)
		bucket = hash_min(dom->key_hash, HASH_BITS(domain_table));
	rcu_read_lock();
	for (; bucket < HASH_SIZE(domain_table); bucket++) {
		hlist_for_each_entry_rcu(next, &domain_table[bucket], link) {
			if (seen && refcount_inc_not_zero(&next->ref))
				goto out;
			seen |= next == dom;
		}
		seen = true;
	}
	next = NULL;
out:
	rcu_read_unlock();
	if (dom)
		upm_domain_put(dom);
	return next;
}

/**
 * upm_domain_census() - count what a domain shares
 * @dom: domain; NULL: all
 * @census: is added to
 *
 * Visits every shared page. Return: 0, -EINTR on a fatal signal.
 */
int upm_domain_census(struct upm_domain *dom, struct upm_census *census)
{
	int err = 0;

	if (dom)
		return upm_index_count(dom, census);
	while (!err && (dom = upm_domain_next(dom)))
		err = upm_index_count(dom, census);
	if (dom)
		upm_domain_put(dom);
	return err;
}

/* Remove the domains that nobody uses and that have no page. May sleep. */
void upm_domains_reap(void)
{
	struct upm_domain *dom;
	struct hlist_node *next;
	LIST_HEAD(dead);
	int bucket;

	mutex_lock(&upm_domains_mutex);
	hash_for_each_safe(domain_table, bucket, next, dom, link) {
		/* Lost pages are held by nobody who knows their entries. */
		if (atomic_long_read(&dom->pages) > READ_ONCE(dom->lost) ||
		    !refcount_dec_if_one(&dom->ref))
			continue;
		domain_remove(dom, &dead);
	}
	mutex_unlock(&upm_domains_mutex);
	domains_destroy(&dead);
}

/* Each domain gets a folder of @type in @folder. */
void upm_domains_init(struct kobject *folder, struct kobj_type *type)
{
	domain_hash_seed = get_random_u32();
	domains_folder = folder;
	domain_type = type;
}

/* At module exit: no call and no descriptor is left, so no reference either. */
void upm_domains_exit(void)
{
	struct upm_domain *dom;
	struct hlist_node *next;
	LIST_HEAD(dead);
	int bucket;

	mutex_lock(&upm_domains_mutex);
	hash_for_each_safe(domain_table, bucket, next, dom, link) {
		WARN_ON_ONCE(!refcount_dec_if_one(&dom->ref));
		domain_remove(dom, &dead);
	}
	mutex_unlock(&upm_domains_mutex);
	domains_destroy(&dead);
	rcu_barrier();	/* domain_free_rcu() is code of this module */
}
