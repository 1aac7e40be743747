// SPDX-License-Identifier: GPL-2.0-only
/* What an administrator sets: the values. sysfs.c has the files. */
#include <linux/mm.h>

#include "upm.h"

struct upm_knobs upm_knobs = {
	.enabled = true,
	.charge = true,
	.file_pages = true,
	.merge_across_nodes = true,
	.batch_pages = 128,
	.sweep_ms = 2000,
	.max_domains = 1024,
	.domain_policy = UPM_POLICY_CONTAINER,
};

void upm_knobs_init(void)
{
	/* Shared pages cannot be swapped: at most half of the memory. */
	upm_knobs.max_pages = totalram_pages() / 2;
	upm_knobs.domain_max_pages = upm_knobs.max_pages;
}
