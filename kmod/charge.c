// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which memory cgroup pays for a shared page.
 *
 * DOC: who pays
 *
 * By default it is the group of the process whose page it was made from: nobody can make
 * another one pay. But the first one keeps the charge as long as anybody maps the page,
 * whereas its neighbours in the domain pay nothing. So an administrator can have a domain
 * pay for itself (knob charge_to): a named one by the group of whoever made it, as a rule
 * the platform; one of the policy cgroup by the very group whose members it has. All
 * other domains have no group that would be theirs rather than that of their first
 * process, so they charge as before.
 *
 * A domain holds a reference on its group. If that is removed meanwhile, the kernel
 * charges the nearest ancestor that is left, as for all memory of such groups.
 */
#include <linux/cgroup.h>
#include <linux/memcontrol.h>
#include <linux/sched.h>

#include "upm.h"

#ifdef CONFIG_MEMCG

/* The group of @task or that of an ancestor with this id, with a reference, or NULL. */
static struct mem_cgroup *group_of_id(struct task_struct *task, u64 id)
{
	struct mem_cgroup *memcg;

	rcu_read_lock();
	memcg = mem_cgroup_from_task(task);
	while (memcg && cgroup_id(memcg->css.cgroup) != id)
		memcg = parent_mem_cgroup(memcg);
	if (memcg && !css_tryget(&memcg->css))
		memcg = NULL;
	rcu_read_unlock();
	return memcg;
}

/*
 * The group that pays for a new domain, with a reference, or NULL if none does. @task is
 * the process because of which the domain is made.
 */
struct mem_cgroup *upm_charge_of_domain(const struct upm_domain_key *key,
					struct task_struct *task)
{
	switch (key->kind) {
	case UPM_DOMAIN_NAMED:
		return current->mm ? get_mem_cgroup_from_mm(current->mm) : NULL;
	case UPM_DOMAIN_CGROUP:
		return group_of_id(task, key->cgroup);
	default:
		return NULL;
	}
}

/*
 * The group to charge for what is inserted into @dom from the memory @mm, with a reference;
 * NULL: that of the caller.
 */
struct mem_cgroup *upm_charge_group(struct upm_domain *dom,
				    struct mm_struct *mm)
{
	if (READ_ONCE(upm_knobs.charge_to) == UPM_CHARGE_DOMAIN && dom->memcg) {
		css_get(&dom->memcg->css);
		return dom->memcg;
	}
	return mm == current->mm ? NULL : get_mem_cgroup_from_mm(mm);
}

#else

struct mem_cgroup *upm_charge_of_domain(const struct upm_domain_key *key,
					struct task_struct *task)
{
	return NULL;
}

struct mem_cgroup *upm_charge_group(struct upm_domain *dom,
				    struct mm_struct *mm)
{
	return NULL;
}

#endif
