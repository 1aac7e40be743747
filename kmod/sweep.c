// SPDX-License-Identifier: GPL-2.0-only
/*
 * Shared pages that nobody maps any more: freed a short time after a /dev/upm
 * file that worked in their domain is closed (its process is gone by then), or a
 * descriptor of the domain; every sweep_ms; by a shrinker when memory is short, for
 * all or in the cgroup that they are charged to; and when an administrator asks.
 *
 * DOC: what a periodic sweep looks at
 *
 * Nobody tells the module of a write or an unmap, so a sweep has to look at each page to
 * know. What it found last time says how soon that is worth it: in a domain where no
 * call worked since then, and nothing could be freed, pages can become unused only one
 * by one, by writes of programs that live on. Such a domain is looked at less and less
 * often, every 16th time at last; a call in it, or the end of a process that used it,
 * makes it due at once. What is not freed meanwhile goes when memory is short. Only
 * periodic sweeps say how long it rests: else whoever opens and closes the device, which
 * has it looked at each time, could send it to rest.
 */
#include <linux/jiffies.h>
#include <linux/list_lru.h>
#include <linux/sched.h>
#include <linux/shrinker.h>
#include <linux/workqueue.h>

#include "compat/compat.h"
#include "trace.h"
#include "upm.h"

/* Sweeps by kicks are at least so far apart, and so many times as long as one took. */
#define KICK_GAP_MS 10
#define KICK_GAP_TIMES 10

/* Periodic sweeps that a domain sits out at most, in which nothing happens. */
#define REST_MAX 15U

static void sweep(struct work_struct *work);
static DECLARE_DELAYED_WORK(sweep_work, sweep);
static void sweep_kicked(struct work_struct *work);
static DECLARE_DELAYED_WORK(kick_work, sweep_kicked);
static unsigned long kick_next;	/* jiffies */
static struct upm_shrinker shrinker;
static bool shrinker_ready;	/* and its list */

/* When is a domain's turn in a sweep of all? */
enum turn { TURN_ALWAYS, TURN_WHEN_DUE };

/*
 * A domain in which no call worked since its last sweep, and that sweep was in vain, sits
 * out one periodic sweep, then three, and so on.
 */
static bool is_due(struct upm_domain *dom)
{
	lockdep_assert_held(&dom->walk_mutex);
	if (READ_ONCE(dom->stirred) || !dom->resting)
		return true;
	dom->resting--;
	return false;
}

static void wake(struct upm_domain *dom)
{
	lockdep_assert_held(&dom->walk_mutex);
	dom->rest = 0;
	dom->resting = 0;
}

static void set_rest(struct upm_domain *dom, enum turn turn,
		     const struct upm_swept *swept)
{
	lockdep_assert_held(&dom->walk_mutex);
	if (swept->freed || swept->broken || !swept->complete) {
		wake(dom);
	} else if (turn == TURN_WHEN_DUE) {
		dom->rest = min(2 * dom->rest + 1, REST_MAX);
		dom->resting = dom->rest;
	}
}

/* Returns true if it found mapped pages with a memory error. */
static bool sweep_domain(struct upm_domain *dom, enum turn turn)
{
	struct upm_swept swept = {};

	mutex_lock(&dom->walk_mutex);
	if (turn == TURN_ALWAYS || is_due(dom)) {
		/* Before the look: what comes later counts for the next one. */
		WRITE_ONCE(dom->kicked, false);
		if (xchg(&dom->stirred, false))
			wake(dom);
		upm_index_sweep(dom, &swept);
		set_rest(dom, turn, &swept);
	}
	mutex_unlock(&dom->walk_mutex);
	if (swept.visited)
		trace_upm_sweep(dom->id, swept.visited, swept.freed);
	return swept.broken;
}

static void sweep_all(enum turn turn)
{
	struct upm_domain *dom = NULL;
	bool broken = false;

	while ((dom = upm_domain_next(dom)))
		if (atomic_long_read(&dom->pages))
			broken |= sweep_domain(dom, turn);
	if (broken)
		upm_broken_take();
	upm_domains_reap();
}

/* Visit every domain once, free what nobody maps, drop empty domains. */
void upm_sweep_now(void)
{
	sweep_all(TURN_ALWAYS);
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
	sweep_all(TURN_WHEN_DUE);
	upm_sweep_retime();
}

/* Only the domains that were kicked: others have nothing to do with it. */
static void sweep_kicked(struct work_struct *work)
{
	unsigned long start = jiffies, end;
	struct upm_domain *dom = NULL;

	while ((dom = upm_domain_next(dom)))
		if (READ_ONCE(dom->kicked))
			sweep_domain(dom, TURN_ALWAYS);
	upm_domains_reap();
	end = jiffies;
	WRITE_ONCE(kick_next, end + max(msecs_to_jiffies(KICK_GAP_MS),
					(end - start) * KICK_GAP_TIMES));
}

/*
 * Sweep @dom soon: a user of its pages may just have gone. Drops the caller's
 * reference, or the sweep might find the domain in use. Anybody may kick as often as
 * he likes: that makes a sweep neither later than it was due, since what is queued is
 * not queued again, nor more frequent than the gap above.
 */
void upm_sweep_kick(struct upm_domain *dom)
{
	unsigned long now = jiffies, next = READ_ONCE(kick_next);

	WRITE_ONCE(dom->kicked, true);
	upm_domain_put(dom);
	queue_delayed_work(upm_unbound_wq, &kick_work,
			   time_before(now, next) ? next - now : 1);
}

static unsigned long shrink_count(struct shrinker *s, struct shrink_control *sc)
{
	unsigned long pages = 0;

	if (smp_load_acquire(&shrinker_ready)) /* pairs with upm_sweep_init() */
		pages = list_lru_shrink_count(&upm_index_lru, sc);
	return pages ? pages : SHRINK_EMPTY;
}

static unsigned long shrink_scan(struct shrinker *s, struct shrink_control *sc)
{
	if (!smp_load_acquire(&shrinker_ready)) /* pairs with upm_sweep_init() */
		return SHRINK_STOP;
	return upm_index_shrink(sc);
}

int upm_sweep_init(void)
{
	int err = upm_shrinker_register(&shrinker, &upm_index_lru, "upm",
					shrink_count, shrink_scan);

	if (err)
		return err;
	smp_store_release(&shrinker_ready, true); /* pairs with shrink_count() */
	kick_next = jiffies;
	upm_sweep_retime();
	return 0;
}

void upm_sweep_exit(void)
{
	WRITE_ONCE(upm_knobs.sweep_ms, 0);	/* no sweep starts the next */
	cancel_delayed_work_sync(&sweep_work);
	cancel_delayed_work_sync(&kick_work);
	upm_shrinker_unregister(&shrinker);
}
