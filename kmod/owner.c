// SPDX-License-Identifier: GPL-2.0-only
/*
 * Owners: who answers for named domains and for shared pages, so that one user
 * cannot take all of them.
 *
 * A user can be many uids: those that are subordinate to his, in user namespaces of
 * his. So who is in a user namespace counts for the user who made the outermost
 * one. Where root made it, it stands for itself: container engines run as root make
 * one for each container, and their tenants shall not count as one.
 */
#include <linux/cred.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/user_namespace.h>

#include "upm.h"

static DEFINE_MUTEX(owners_mutex);
static LIST_HEAD(owners);

static void owner_of(const struct cred *cred, struct user_namespace **ns,
		     kuid_t *uid)
{
	*ns = cred->user_ns;
	*uid = cred->uid;
	if (*ns == &init_user_ns)
		return;
	while ((*ns)->parent != &init_user_ns)
		*ns = (*ns)->parent;
	*uid = INVALID_UID;
	if (uid_eq((*ns)->owner, GLOBAL_ROOT_UID))
		return;
	*uid = (*ns)->owner;
	*ns = &init_user_ns;
}

/* The owner that @cred acts for, with a reference, or NULL without memory. */
struct upm_owner *upm_owner_get(const struct cred *cred)
{
	struct user_namespace *ns;
	struct upm_owner *owner;
	kuid_t uid;

	owner_of(cred, &ns, &uid);
	mutex_lock(&owners_mutex);
	list_for_each_entry(owner, &owners, link) {
		if (owner->ns == ns && uid_eq(owner->uid, uid)) {
			owner->refs++;
			goto out;
		}
	}
	owner = kzalloc(sizeof(*owner), GFP_KERNEL_ACCOUNT);
	if (owner) {
		owner->refs = 1;
		owner->ns = get_user_ns(ns);
		owner->uid = uid;
		list_add(&owner->link, &owners);
	}
out:
	mutex_unlock(&owners_mutex);
	return owner;
}

void upm_owner_put(struct upm_owner *owner)
{
	bool last;

	mutex_lock(&owners_mutex);
	last = !--owner->refs;
	if (last)
		list_del(&owner->link);
	mutex_unlock(&owners_mutex);
	if (!last)
		return;
	put_user_ns(owner->ns);
	kfree(owner);
}

/* May @owner have one more of @max when it has @own, and all have @total of them? */
bool upm_owner_may(unsigned long own, unsigned long total, unsigned long max)
{
	unsigned long quarter = DIV_ROUND_UP(max, 4);

	return total <= max - quarter || own <= quarter;
}
