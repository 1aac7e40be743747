// SPDX-License-Identifier: GPL-2.0-only
/*
 * /sys/kernel/upm: knobs for the administrator, and statistics of the module and
 * of each domain. Statistics are for root only: in a container they would tell of
 * other containers.
 */
#include <linux/build_bug.h>
#include <linux/kernel.h>
#include <linux/kstrtox.h>
#include <linux/mm.h>
#include <linux/pid_namespace.h>
#include <linux/string.h>
#include <linux/sysfs.h>
#include <linux/user_namespace.h>

#include "upm.h"

static struct kobject *upm_kobj;
static struct kobject *domains_kobj;

static const char *const policy_names[] = {
	[UPM_POLICY_CONTAINER] = "container",
	[UPM_POLICY_UID] = "uid",
	[UPM_POLICY_CGROUP] = "cgroup",
	[UPM_POLICY_GLOBAL] = "global",
};

static_assert(ARRAY_SIZE(policy_names) == UPM_POLICY_NR);

static const char *const charge_to_names[] = {
	[UPM_CHARGE_FIRST] = "first",
	[UPM_CHARGE_DOMAIN] = "domain",
};

static_assert(ARRAY_SIZE(charge_to_names) == UPM_CHARGE_NR);

/* ---- attributes: a number with its range, or functions ------------------- */

enum knob_type { KNOB_BOOL, KNOB_UINT, KNOB_ULONG };

struct knob {
	struct kobj_attribute attr;
	void *value;
	enum knob_type type;
	unsigned long min, max;
	void (*changed)(void);
};

static ssize_t knob_show(struct kobject *kobj, struct kobj_attribute *attr,
			 char *buf)
{
	struct knob *knob = container_of(attr, struct knob, attr);

	switch (knob->type) {
	case KNOB_BOOL:
		return sysfs_emit(buf, "%d\n", READ_ONCE(*(bool *)knob->value));
	case KNOB_UINT:
		return sysfs_emit(buf, "%u\n",
				  READ_ONCE(*(unsigned int *)knob->value));
	case KNOB_ULONG:
		break;
	}
	return sysfs_emit(buf, "%lu\n",
			  READ_ONCE(*(unsigned long *)knob->value));
}

static ssize_t knob_store(struct kobject *kobj, struct kobj_attribute *attr,
			  const char *buf, size_t count)
{
	struct knob *knob = container_of(attr, struct knob, attr);
	unsigned long value;
	int err = kstrtoul(buf, 10, &value);

	if (err)
		return err;
	if (value < knob->min || value > knob->max)
		return -ERANGE;
	switch (knob->type) {
	case KNOB_BOOL:
		WRITE_ONCE(*(bool *)knob->value, value);
		break;
	case KNOB_UINT:
		WRITE_ONCE(*(unsigned int *)knob->value, value);
		break;
	case KNOB_ULONG:
		WRITE_ONCE(*(unsigned long *)knob->value, value);
	}
	if (knob->changed)
		knob->changed();
	return count;
}

#define KNOB(_name, _type, _min, _max, _changed)			\
	static struct knob knob_##_name = {				\
		.attr = __ATTR(_name, 0644, knob_show, knob_store),	\
		.value = &upm_knobs._name,				\
		.type = _type,						\
		.min = _min,						\
		.max = _max,						\
		.changed = _changed,					\
	}

KNOB(enabled, KNOB_BOOL, 0, 1, NULL);
KNOB(charge, KNOB_BOOL, 0, 1, NULL);
KNOB(file_pages, KNOB_BOOL, 0, 1, NULL);
KNOB(merge_across_nodes, KNOB_BOOL, 0, 1, NULL);
KNOB(batch_pages, KNOB_UINT, 1, UPM_BATCH_MAX, NULL);
KNOB(sweep_ms, KNOB_UINT, 0, 3600 * 1000, upm_sweep_retime);
KNOB(max_domains, KNOB_UINT, 0, 1 << 20, NULL);
KNOB(max_pages, KNOB_ULONG, 0, LONG_MAX, NULL);
KNOB(domain_max_pages, KNOB_ULONG, 0, LONG_MAX, NULL);

static ssize_t domain_policy_show(struct kobject *kobj,
				  struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%s\n",
			  policy_names[READ_ONCE(upm_knobs.domain_policy)]);
}

static ssize_t domain_policy_store(struct kobject *kobj,
				   struct kobj_attribute *attr,
				   const char *buf, size_t count)
{
	int policy = sysfs_match_string(policy_names, buf);

	if (policy < 0)
		return policy;
#ifndef CONFIG_MEMCG
	if (policy == UPM_POLICY_CGROUP)
		return -EOPNOTSUPP;
#endif
	if (policy == UPM_POLICY_CGROUP &&
	    !READ_ONCE(upm_knobs.domain_cgroup_depth))
		return -EINVAL;
	WRITE_ONCE(upm_knobs.domain_policy, policy);
	return count;
}

/*
 * No depth is right everywhere: the groups of containers are at one of their own on
 * each kind of system. So there is no default, and none while it is needed.
 */
static ssize_t domain_cgroup_depth_show(struct kobject *kobj,
					struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%u\n",
			  READ_ONCE(upm_knobs.domain_cgroup_depth));
}

static ssize_t domain_cgroup_depth_store(struct kobject *kobj,
					 struct kobj_attribute *attr,
					 const char *buf, size_t count)
{
	unsigned int depth;
	int err = kstrtouint(buf, 10, &depth);

	if (err)
		return err;
	if (depth > 255)
		return -ERANGE;
	if (!depth && READ_ONCE(upm_knobs.domain_policy) == UPM_POLICY_CGROUP)
		return -EINVAL;
	WRITE_ONCE(upm_knobs.domain_cgroup_depth, depth);
	return count;
}

static ssize_t charge_to_show(struct kobject *kobj,
			      struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%s\n",
			  charge_to_names[READ_ONCE(upm_knobs.charge_to)]);
}

static ssize_t charge_to_store(struct kobject *kobj,
			       struct kobj_attribute *attr, const char *buf,
			       size_t count)
{
	int whom = sysfs_match_string(charge_to_names, buf);

	if (whom < 0)
		return whom;
	WRITE_ONCE(upm_knobs.charge_to, whom);
	return count;
}

static struct kobj_attribute charge_to_attr = __ATTR_RW(charge_to);
static struct kobj_attribute domain_policy_attr = __ATTR_RW(domain_policy);
static struct kobj_attribute domain_cgroup_depth_attr =
	__ATTR_RW(domain_cgroup_depth);

/* ---- actions: write 1 ---------------------------------------------------- */

static int action_check(const char *buf)
{
	bool on;
	int err = kstrtobool(buf, &on);

	return err ? err : on ? 0 : -EINVAL;
}

/* Free shared pages that nobody maps, now. */
static ssize_t sweep_store(struct kobject *kobj, struct kobj_attribute *attr,
			   const char *buf, size_t count)
{
	int err = action_check(buf);

	if (err)
		return err;
	upm_sweep_now();
	return count;
}

/* The emergency brake: no merging any more, and all processes unmerged. */
static ssize_t unmerge_store(struct kobject *kobj, struct kobj_attribute *attr,
			     const char *buf, size_t count)
{
	int err = action_check(buf);

	if (err)
		return err;
	WRITE_ONCE(upm_knobs.enabled, false);
	err = upm_unmerge_all();
	upm_sweep_now();
	return err ? err : count;
}

static ssize_t reset_store(struct kobject *kobj, struct kobj_attribute *attr,
			   const char *buf, size_t count)
{
	int err = action_check(buf);

	if (err)
		return err;
	upm_totals_reset();
	return count;
}

static struct kobj_attribute sweep_attr = __ATTR_WO(sweep);
static struct kobj_attribute unmerge_attr = __ATTR_WO(unmerge);
static struct kobj_attribute reset_attr = __ATTR(stats_reset, 0200, NULL,
						 reset_store);

/* ---- statistics ---------------------------------------------------------- */

#define CENSUS_STAT(_name, _field)					\
	static ssize_t _name##_show(struct kobject *kobj,		\
				    struct kobj_attribute *attr,	\
				    char *buf)				\
	{								\
		struct upm_census census = {};				\
		int err = upm_domain_census(NULL, &census);		\
									\
		return err ? err :					\
			     sysfs_emit(buf, "%lu\n", census._field);	\
	}								\
	static struct kobj_attribute _name##_attr =			\
		__ATTR(_name, 0400, _name##_show, NULL)

CENSUS_STAT(pages_shared, shared);
CENSUS_STAT(pages_sharing, sharing);
CENSUS_STAT(pages_unused, unused);

static u64 metadata_all(void)
{
	struct upm_domain *dom = NULL;
	u64 bytes = 0;

	while ((dom = upm_domain_next(dom)))
		bytes += upm_index_metadata(dom);
	return bytes;
}

static ssize_t metadata_bytes_show(struct kobject *kobj,
				   struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%llu\n", metadata_all());
}

/* What merging saves less what it costs, in bytes; may be negative. */
static ssize_t general_profit_show(struct kobject *kobj,
				   struct kobj_attribute *attr, char *buf)
{
	struct upm_census census = {};
	int err = upm_domain_census(NULL, &census);
	s64 profit;

	if (err)
		return err;
	profit = ((s64)census.sharing - (s64)census.unused) * (s64)PAGE_SIZE -
		 (s64)metadata_all();
	return sysfs_emit(buf, "%lld\n", profit);
}

static struct kobj_attribute metadata_bytes_attr =
	__ATTR(metadata_bytes, 0400, metadata_bytes_show, NULL);
static struct kobj_attribute general_profit_attr =
	__ATTR(general_profit, 0400, general_profit_show, NULL);

struct total {
	struct kobj_attribute attr;
	atomic64_t *value;
};

static ssize_t total_show(struct kobject *kobj, struct kobj_attribute *attr,
			  char *buf)
{
	struct total *total = container_of(attr, struct total, attr);

	return sysfs_emit(buf, "%lld\n", atomic64_read(total->value));
}

#define TOTAL(_name, _field)						\
	static struct total total_##_name = {				\
		.attr = __ATTR(_name, 0400, total_show, NULL),		\
		.value = &upm_totals._field,				\
	}

TOTAL(calls, calls);
TOTAL(batches, batches);
TOTAL(pages_merged, merged);
TOTAL(pages_inserted, inserted);
TOTAL(pages_zero, zero);
TOTAL(pages_unmerged, unmerged);
TOTAL(pages_predicted, successors);
TOTAL(pages_freed, freed);
TOTAL(loads, loads);
TOTAL(bytes_loaded, loaded_bytes);
TOTAL(bytes_copied, copied_bytes);
TOTAL(scan_ns, phase_ns[UPM_PHASE_SCAN]);
TOTAL(freeze_ns, phase_ns[UPM_PHASE_FREEZE]);
TOTAL(find_ns, phase_ns[UPM_PHASE_FIND]);
TOTAL(map_ns, phase_ns[UPM_PHASE_MAP]);
TOTAL(finish_ns, phase_ns[UPM_PHASE_FINISH]);
TOTAL(lock_ns, lock_ns);
TOTAL(lock_ns_max, lock_ns_max);

static const char *const skip_names[] = {
	[UPM_SKIP_NOT_PRESENT] = "not_present",
	[UPM_SKIP_SWAPPED] = "swapped",
	[UPM_SKIP_BUSY] = "busy",
	[UPM_SKIP_SHARED] = "shared",
	[UPM_SKIP_HUGETLB] = "hugetlb",
	[UPM_SKIP_SPECIAL] = "special",
	[UPM_SKIP_UFFD] = "uffd",
	[UPM_SKIP_SECRET] = "secret",
	[UPM_SKIP_KSM] = "ksm",
	[UPM_SKIP_COMPOUND] = "compound",
	[UPM_SKIP_LIMIT] = "limit",
	[UPM_SKIP_NOMEM] = "nomem",
	[UPM_SKIP_COLLISION] = "collision",
	[UPM_SKIP_FILE] = "file",
	[UPM_SKIP_UNMAPPED] = "unmapped",
	[UPM_SKIP_PRESENT] = "present",
};

static_assert(ARRAY_SIZE(skip_names) == UPM_SKIP_NR);

/* One line for each reason: its name and the pages skipped for it. */
static ssize_t pages_skipped_show(struct kobject *kobj,
				  struct kobj_attribute *attr, char *buf)
{
	unsigned int i, len = 0;

	for (i = 0; i < UPM_SKIP_NR; i++)
		len += sysfs_emit_at(buf, len, "%s %lld\n", skip_names[i],
				     atomic64_read(&upm_totals.skipped[i]));
	return len;
}

static struct kobj_attribute pages_skipped_attr =
	__ATTR(pages_skipped, 0400, pages_skipped_show, NULL);

/* ---- the folder ---------------------------------------------------------- */

static struct attribute *upm_attrs[] = {
	&knob_enabled.attr.attr,
	&knob_charge.attr.attr,
	&charge_to_attr.attr,
	&knob_file_pages.attr.attr,
	&knob_merge_across_nodes.attr.attr,
	&knob_batch_pages.attr.attr,
	&domain_cgroup_depth_attr.attr,
	&knob_sweep_ms.attr.attr,
	&knob_max_domains.attr.attr,
	&knob_max_pages.attr.attr,
	&knob_domain_max_pages.attr.attr,
	&domain_policy_attr.attr,
	&sweep_attr.attr,
	&unmerge_attr.attr,
	&reset_attr.attr,
	&pages_shared_attr.attr,
	&pages_sharing_attr.attr,
	&pages_unused_attr.attr,
	&metadata_bytes_attr.attr,
	&general_profit_attr.attr,
	&pages_skipped_attr.attr,
	&total_calls.attr.attr,
	&total_batches.attr.attr,
	&total_pages_merged.attr.attr,
	&total_pages_inserted.attr.attr,
	&total_pages_zero.attr.attr,
	&total_pages_unmerged.attr.attr,
	&total_pages_predicted.attr.attr,
	&total_pages_freed.attr.attr,
	&total_loads.attr.attr,
	&total_bytes_loaded.attr.attr,
	&total_bytes_copied.attr.attr,
	&total_scan_ns.attr.attr,
	&total_freeze_ns.attr.attr,
	&total_find_ns.attr.attr,
	&total_map_ns.attr.attr,
	&total_finish_ns.attr.attr,
	&total_lock_ns.attr.attr,
	&total_lock_ns_max.attr.attr,
	NULL,
};

static const struct attribute_group upm_group = { .attrs = upm_attrs };

/* ---- a domain's folder ---------------------------------------------------- */

struct domain_attribute {
	struct attribute attr;
	ssize_t (*show)(struct upm_domain *dom, char *buf);
};

static ssize_t domain_attr_show(struct kobject *kobj, struct attribute *attr,
				char *buf)
{
	struct domain_attribute *da =
		container_of(attr, struct domain_attribute, attr);

	return da->show(container_of(kobj, struct upm_domain, kobj), buf);
}

static const struct sysfs_ops domain_sysfs_ops = {
	.show = domain_attr_show,
};

static ssize_t domain_kind_show(struct upm_domain *dom, char *buf)
{
	switch (dom->key.kind) {
	case UPM_DOMAIN_CONTAINER:
		return sysfs_emit(buf, "container uid %u userns %u pidns %u\n",
				  __kuid_val(dom->key.user.uid),
				  dom->key.user.ns->ns.inum,
				  dom->key.user.pid_ns->ns.inum);
	case UPM_DOMAIN_UID:
		return sysfs_emit(buf, "uid %u userns %u\n",
				  __kuid_val(dom->key.user.uid),
				  dom->key.user.ns->ns.inum);
	case UPM_DOMAIN_ALONE:
		return sysfs_emit(buf, "alone pid %d\n",
				  pid_nr(dom->key.alone));
	case UPM_DOMAIN_CGROUP:
		return sysfs_emit(buf, "cgroup %llu\n", dom->key.cgroup);
	case UPM_DOMAIN_NAMED:
		return sysfs_emit(buf, "named\n");	/* the key is secret */
	case UPM_DOMAIN_GLOBAL:
		break;
	}
	return sysfs_emit(buf, "global\n");
}

static ssize_t domain_pages_show(struct upm_domain *dom, char *buf)
{
	return sysfs_emit(buf, "%ld\n", atomic_long_read(&dom->pages));
}

static ssize_t domain_shared_show(struct upm_domain *dom, char *buf)
{
	struct upm_census census = {};
	int err = upm_domain_census(dom, &census);

	return err ? err : sysfs_emit(buf, "%lu\n", census.shared);
}

static ssize_t domain_sharing_show(struct upm_domain *dom, char *buf)
{
	struct upm_census census = {};
	int err = upm_domain_census(dom, &census);

	return err ? err : sysfs_emit(buf, "%lu\n", census.sharing);
}

#define DOMAIN_ATTR(_name, _show)					\
	static struct domain_attribute domain_attr_##_name = {		\
		.attr = { .name = #_name, .mode = 0400 },		\
		.show = _show,						\
	}

DOMAIN_ATTR(kind, domain_kind_show);
DOMAIN_ATTR(pages, domain_pages_show);
DOMAIN_ATTR(pages_shared, domain_shared_show);
DOMAIN_ATTR(pages_sharing, domain_sharing_show);

static struct attribute *domain_attrs[] = {
	&domain_attr_kind.attr,
	&domain_attr_pages.attr,
	&domain_attr_pages_shared.attr,
	&domain_attr_pages_sharing.attr,
	NULL,
};
ATTRIBUTE_GROUPS(domain);

struct kobj_type upm_domain_ktype = {
	.sysfs_ops = &domain_sysfs_ops,
	.default_groups = domain_groups,
	.release = upm_domain_release,
};

/* ---- init and exit -------------------------------------------------------- */

/* The folders; returns that of the domains, or NULL. */
struct kobject *upm_sysfs_init(void)
{
	upm_kobj = kobject_create_and_add("upm", kernel_kobj);
	if (!upm_kobj)
		return NULL;
	domains_kobj = kobject_create_and_add("domains", upm_kobj);
	if (!domains_kobj)
		kobject_put(upm_kobj);
	return domains_kobj;
}

void upm_sysfs_exit(void)
{
	kobject_put(domains_kobj);
	kobject_put(upm_kobj);
}

/* The files, once all that they work on is there. */
int upm_sysfs_files_init(void)
{
	return sysfs_create_group(upm_kobj, &upm_group);
}

/* Waits until nobody reads or writes one. */
void upm_sysfs_files_exit(void)
{
	sysfs_remove_group(upm_kobj, &upm_group);
}
