// SPDX-License-Identifier: GPL-2.0-only
/*
 * Shared pages that nobody maps any more: freed a short time after a /dev/upm
 * file is closed (its process is gone by then), every sweep_ms, by a shrinker
 * when memory is short, and when an administrator asks.
 */
#include <linux/sched.h>
#include <linux/shrinker.h>
#include <linux/workqueue.h>

#include "compat/compat.h"
#include "trace.h"
#include "upm.h"

/* Entries of one domain that one sweep visits; the next goes on from there. */
#define SWEEP_BUDGET 1048576UL

static void sweep(struct work_struct *work);
static DECLARE_DELAYED_WORK(sweep_work, sweep);
static struct upm_shrinker shrinker;

static void sweep_domain(struct upm_domain *dom)
{
	struct upm_census census = {};

	mutex_lock(&dom->walk_mutex);
	upm_index_walk(dom, UPM_WALK_FREE, SWEEP_BUDGET, true, &census);
	mutex_unlock(&dom->walk_mutex);
	trace_upm_sweep(dom->id, census.visited, census.freed);
}

/* Visit every domain once, free what nobody maps, drop empty domains. */
void upm_sweep_now(void)
{
	struct upm_domain *dom = NULL;

	while ((dom = upm_domain_next(dom)))
		if (atomic_long_read(&dom->pages))
			sweep_domain(dom);
	upm_domains_reap();
}

/* Take the time of the next periodic sweep from the knob; 0: none. */
void upm_sweep_retime(void)
{
	unsigned int ms = READ_ONCE(upm_knobs.sweep_ms);

	if (ms)
		mod_delayed_work(upm_unbound_wq, &sweep_work,
				 msecs_to_jiffies(ms));
	else
		cancel_delayed_work(&sweep_work);
}

static void sweep(struct work_struct *work)
{
	upm_sweep_now();
	upm_sweep_retime();
}

/* Sweep soon: a user of shared pages may just have gone. */
void upm_sweep_kick(void)
{
	mod_delayed_work(upm_unbound_wq, &sweep_work, 1);
}

static unsigned long shrink_count(struct shrinker *s, struct shrink_control *sc)
{
	unsigned long pages = upm_index_pages();

	return pages ? pages : SHRINK_EMPTY;
}

static unsigned long shrink_scan(struct shrinker *s, struct shrink_control *sc)
{
	struct upm_census census = {};
	struct upm_domain *dom = NULL;

	while ((dom = upm_domain_next(dom))) {
		if (census.visited >= sc->nr_to_scan ||
		    !mutex_trylock(&dom->walk_mutex))
			continue;
		upm_index_walk(dom, UPM_WALK_FREE,
			       sc->nr_to_scan - census.visited, false, &census);
		mutex_unlock(&dom->walk_mutex);
	}
	sc->nr_scanned = census.visited;
	return census.visited ? census.freed : SHRINK_STOP;
}

int upm_sweep_init(void)
{
	int err = upm_shrinker_register(&shrinker, "upm", shrink_count,
					shrink_scan);

	if (!err)
		upm_sweep_retime();
	return err;
}

void upm_sweep_exit(void)
{
	WRITE_ONCE(upm_knobs.sweep_ms, 0);	/* no sweep starts the next */
	cancel_delayed_work_sync(&sweep_work);
	upm_shrinker_unregister(&shrinker);
}
