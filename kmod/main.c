// SPDX-License-Identifier: GPL-2.0-only
/*
 * UPM: user-guided page merging as a loadable module.
 *
 * A program says which memory is worth sharing; equal pages of processes in one
 * domain are replaced at once by one shared page, read-only and private by
 * copy-on-write. See merge.c for why that is safe, index.c for how a page is
 * found, domain.c for who shares with whom, upm.h for locks and lifetimes.
 */
#include <linux/module.h>

#include "upm.h"

static int __init upm_init(void)
{
	struct kobject *domains;
	int err;

	upm_bytes_init();
	upm_knobs_init();
	err = upm_index_global_init();
	if (err)
		return err;
	domains = upm_sysfs_init();
	if (!domains) {
		err = -ENOMEM;
		goto err_index;
	}
	upm_domains_init(domains, &upm_domain_ktype);
	err = upm_sweep_init();
	if (err)
		goto err_domains;
	err = upm_sysfs_files_init();
	if (err)
		goto err_sweep;
	err = upm_device_init();
	if (err)
		goto err_files;
	return 0;

err_files:
	upm_sysfs_files_exit();
err_sweep:
	upm_sweep_exit();
err_domains:
	upm_domains_exit();
	upm_sysfs_exit();
err_index:
	upm_index_global_exit();
	return err;
}

/*
 * No descriptor is open, so no call runs. The files go before what they start: a
 * write to some of them sets off a sweep. Shared pages that are still mapped need
 * nothing of the module any more.
 */
static void __exit upm_exit(void)
{
	upm_device_exit();
	upm_sysfs_files_exit();
	upm_sweep_exit();
	upm_domains_exit();
	upm_sysfs_exit();
	upm_index_global_exit();
}

module_init(upm_init);
module_exit(upm_exit);

MODULE_DESCRIPTION("User-guided page merging");
MODULE_AUTHOR("The UPM authors");
MODULE_LICENSE("GPL");
MODULE_VERSION(UPM_VERSION);
