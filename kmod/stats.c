// SPDX-License-Identifier: GPL-2.0-only
/* What happened since the module was loaded, or since the last reset. */
#include "upm.h"

struct upm_totals upm_totals;

/* Raise *@max to @value. */
void upm_totals_max(atomic64_t *max, u64 value)
{
	s64 old = atomic64_read(max);

	while ((s64)value > old && !atomic64_try_cmpxchg(max, &old, value))
		;
}

/* Every counter to zero; one that counts just now may keep its count. */
void upm_totals_reset(void)
{
	atomic64_t *counter = (atomic64_t *)&upm_totals;
	unsigned int i;

	BUILD_BUG_ON(sizeof(upm_totals) % sizeof(*counter));
	for (i = 0; i < sizeof(upm_totals) / sizeof(*counter); i++)
		atomic64_set(&counter[i], 0);
}
