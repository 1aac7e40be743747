/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The module's index of shared pages, for freeze.pml: how an entry is found, inserted and
 * freed, the sweep, and the end of the module. It models index.c, walk.c, sweep.c and
 * main.c.
 */

/* ---- the module and its index ----------------------------------------------- */

bit loaded = 1;		/* its code is there */
bit opens = 1;		/* /dev/upm can be opened */
byte users;		/* open files: the module's reference count */
bit sweeping;
byte running;		/* processes of the model */

/* struct upm_entry. All contents have one hash: so each hit may be a collision. */
typedef entry_t {
	bit used;
	bit listed;
	byte page;
};

entry_t en[NE];
byte bucket = NO;	/* the hash table */
bit dom_lock;
byte rcu;		/* readers */

inline entry_alloc(e)
{
	atomic {
		e = 0;
		do
		:: e < NE && en[e].used -> e++
		:: else -> break
		od;
		assert(e < NE);
		en[e].used = 1;
		en[e].page = NO
	}
}

inline entry_free(e)
{
	atomic { assert(en[e].used && !en[e].listed && bucket != e); en[e].used = 0; en[e].page = 0 }
}

inline frame_get(n)
{
	atomic { assert(fr[n].used && fr[n].refs > 0); fr[n].refs++ }
}

/* entry_tryget(): the frame if it still is that of the entry; else NO. */
inline entry_tryget(e, p)
{
	atomic { assert(en[e].used); p = en[e].page };
	if
	:: p == NO
	:: p != NO ->
		atomic {	/* get_page_unless_zero() */
			if
			:: fr[p].refs > 0 -> fr[p].refs++
			:: else -> p = NO
			fi
		};
#ifndef BUG_NO_SECOND_LOOK
		if
		:: p != NO ->
			assert(en[e].used);
			if
			:: en[e].page == p
			:: else -> frame_put(p); p = NO
			fi
		:: else
		fi
#endif
	fi
}

/* upm_index_get() */
inline index_get(e, p)
{
	p = NO;
	atomic { rcu++; e = bucket };	/* rcu_read_lock(), rhashtable_lookup() */
	if
	:: e != NO -> entry_tryget(e, p)
	:: else
	fi;
	rcu--
}

/*
 * upm_index_insert() of entry @own with page @s. @p: the page to share, referenced: @s, or
 * that of another entry that came first.
 */
inline index_insert(own, s, e, p)
{
	do
	:: atomic {
			fr[s].tag = OURS;	/* page_mark() */
			en[own].page = s;
			frame_get(s)
		};
		atomic { !dom_lock -> dom_lock = 1; rcu++; e = bucket };
		if
		:: atomic { e == NO ->	/* entry_publish() */
				bucket = own;
				en[own].listed = 1;
				dom_lock = 0;
				rcu--;
				p = s;
				break
			}
		:: atomic { e != NO -> dom_lock = 0 };
			entry_tryget(e, p);
			atomic {
				rcu--;
				frame_put(s);
				fr[s].tag = 0;
				if
				:: p != NO -> break
				:: else		/* -EAGAIN: it just died */
				fi
			}
		fi
	od
}

/* ---- sweep.c, main.c --------------------------------------------------------------- */

/* upm_index_kill(): @p: the page, whose one reference is the caller's, or NO. */
inline entry_kill(e, p)
{
	p = en[e].page;
#ifdef BUG_KILL_BY_LOOK
	if
	:: fr[p].refs != 1 -> p = NO
	:: else
	fi;
#else
	atomic {	/* page_ref_freeze() */
		if
		:: fr[p].refs == 1 -> fr[p].refs = 0
		:: else -> p = NO
		fi
	};
#endif
	if
	:: p != NO ->
		en[e].page = NO;
		atomic {
			en[e].listed = 0;
			if
			:: bucket == e -> bucket = NO
			:: else
			fi
		};
		fr[p].tag = 0;
#ifndef BUG_KILL_BY_LOOK
		fr[p].refs = 1
#endif
	:: else
	fi
}

/* walk.c: sweep_chunk(), free_pages_list(); reap_dead() */
proctype sweep()
{
	byte e = 0, p = NO;

	if
	:: atomic { opens -> sweeping = 1 }
	:: atomic { !opens -> goto over }
	fi;
	do
	:: e < NE ->
		atomic { !dom_lock -> dom_lock = 1 };
		if
		:: en[e].listed -> entry_kill(e, p)
		:: else
		fi;
		dom_lock = 0;
		if
		:: p != NO ->
			frame_put(p);
			p = NO;
#ifndef BUG_NO_GRACE_PERIOD
			rcu == 0;	/* synchronize_rcu() */
#endif
			entry_free(e)
		:: else
		fi;
		e++
	:: else -> break
	od;
	assert(loaded);
	sweeping = 0;
over:
	running--
}

/* upm_exit(): upm_device_exit(), upm_sweep_exit(), upm_index_destroy(). */
inline module_exit(e)
{
	atomic { users == 0 && opens -> opens = 0 };
#ifndef BUG_EXIT_DOES_NOT_WAIT
	sweeping == 0;	/* cancel_delayed_work_sync() */
#endif
	e = 0;
	do
	:: e < NE && en[e].listed ->
		atomic { en[e].listed = 0; if :: bucket == e -> bucket = NO :: else fi };
		fr[en[e].page].tag = ORPHAN;
#ifdef BUG_DESTROY_FREES
		atomic { fr[en[e].page].refs = 1; frame_put(en[e].page) };	/* __free_page() */
#else
		frame_put(en[e].page);
#endif
		entry_free(e);
		e++
	:: e < NE && !en[e].listed -> e++
	:: else -> break
	od;
	e = 0;
	loaded = 0
}
