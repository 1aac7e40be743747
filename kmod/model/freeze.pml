/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A model of the freeze protocol, for spin: merge.c, prepare.c and find.c, on the index as
 * index.pml has it (index.c, sweep.c, main.c), on the kernel as kernel.pml has it; what
 * programs do meanwhile is in programs.pml. Beside each piece stands the function that it
 * models. tests/kmod/model/freeze_test.py runs it: each case below by itself, and each
 * seeded bug, which the checker must find.
 *
 * What is checked, over all interleavings:
 *
 * - no lost write: a user thread reads what it wrote last, or its device did, whatever
 *   happens meanwhile; and a child of a fork, what the parent had;
 * - no stale pin: what a device writes by a pin the program reads, and the reverse;
 * - no use after free: no page table and no TLB names a frame that goes, nobody reads
 *   one that went, no entry is looked at when its memory went, no code when the module did;
 * - no leak: when all have ended, each frame and each entry is free;
 * - no deadlock; and no fail_stop(): the place of a page that was zapped is still empty.
 *
 * Cases, one of them by -D:
 *
 *	PAIR	two programs with equal pages, or with different ones of the same hash
 *	FORK	a program forks while it is merged
 *	FAMILY	parent and child share a page, and both are merged
 *	PIN	a program has a device write to its page and read it, and forks
 *	SWEEP	content is looked up and inserted while unused pages are freed
 *	UNLOAD	the module is unloaded between calls, loaded again, and the page merged anew
 *	FILE	a private mapping of a file, whose pages the page cache drops meanwhile
 *
 * With VMA_LOCK faults take the lock of the VMA, as since 6.4; without it the mmap_lock.
 *
 * Not modelled: more than one page (the batch, the successor), NUMA nodes, the shrinker
 * (as the sweep, by other locks), reclaim, huge pages, load.c, and the order of memory
 * accesses where the code relies on barriers.
 */

#ifdef FILE
#define NM	1
#else
#define NM	2
#endif
#define NF	(3 * NM + 2)
#define NE	3	/* entries */

#include "kernel.pml"

#include "index.pml"

/* ---- a call: upm_merge() of one page -------------------------------------------- */

#define FOUND_NOTHING	0
#define FOUND_SHARED	1	/* UPM_FOUND_KNOWN, UPM_FOUND_NEW */
#define FOUND_ZERO	2

/* entry_matches(): keeps the hit, or drops it. By hit() it is the cursor, too. */
#ifdef BUG_TRUST_THE_HASH
#define MATCHES(a, b)	true
#else
#define MATCHES(a, b)	(fr[a].data == fr[b].data)
#endif

inline hit(hit_entry)
{
	cursor = hit_entry;
	verdict = FOUND_SHARED
}

inline match(pg, e, p)
{
	atomic {
		assert(fr[pg].used && fr[p].used);
		if
		:: MATCHES(pg, p) -> hit(e)
		:: else -> frame_put(p); p = NO
		fi
	}
}

/* Of an anonymous VMA, where a missing page reads as zeros. */
#ifdef FILE
#define IS_ZERO(n)	false
#else
#define IS_ZERO(n)	(fr[n].data == 0)
#endif

/* upm_find(), find(), insert() */
inline find(pg, p)
{
	if
	:: IS_ZERO(pg) -> verdict = FOUND_ZERO
	:: else ->
		index_get(e, p);
		if
		:: p != NO -> match(pg, e, p)
		:: else ->
			atomic { assert(fr[pg].used); fr[s].data = fr[pg].data };	/* spare_fill() */
			index_insert(own, s, e, p);
			if
			:: atomic { p == s -> hit(own); own = NO }
			:: p != s -> match(pg, e, p)
			fi
		fi
	fi;
	e = NO
}

/* look_at_pte(), look_at_page() */
#if defined(FILE) && !defined(BUG_DIRTY_FILE_PAGES)
#define MAY_MERGE(n)	(fr[n].tag == 0 && !fr[n].anon)
#else
#define MAY_MERGE(n)	(fr[n].tag == 0)
#endif

inline scan(m)
{
	atomic {
		!mm[m].ptl;
		candidate = mm[m].kind == PRESENT && MAY_MERGE(mm[m].f);
		orphan = mm[m].kind == PRESENT && fr[mm[m].f].tag == ORPHAN
	}
}

/* upm_prepare(): make_private() of an orphan, and make_anon_vma() of a file's VMA. */
inline prepare(m)
{
	if
	:: orphan -> handle_fault(m, 1); scan(m)
#ifdef FILE
	:: candidate && !mm[m].anon_vma ->
		fault_look(m, 1);
		if
		:: todo == FAULT_COPY ->
			/* Without VM_WRITE the copy is read-only: what is written is not lost. */
#ifdef BUG_PREPARE_WRITABLE
			fault_copy(m, 1);
#else
			fault_copy(m, 0);
#endif
			zap(m, old_f);	/* make_clean() */
			handle_fault(m, 0)
		:: else
		fi;
		atomic { todo = 0; old_f = NO; new_f = NO };
		scan(m)
#endif
	:: else
	fi
}

/* map_run(): zap what is there, which are migration entries, and vm_insert_pages(). */
inline map(m, p)
{
	if
	:: verdict != FOUND_NOTHING -> zap(m, old_f)
	:: else
	fi;
	if
	:: verdict == FOUND_SHARED ->
		atomic {
			!mm[m].ptl;
			assert(mm[m].kind == NONE);	/* else fail_stop() */
			assert(fr[p].tag == OURS);
#ifdef BUG_MAP_WRITABLE
			pte_set(m, p, 1);
#else
			pte_set(m, p, 0);
#endif
			fr[p].refs++
		}
	:: else
	fi
}

#ifdef BUG_FREE_WITHOUT_LOOK
#define ONLY_OURS(n)	(fr[n].refs == 1)
#else
#define ONLY_OURS(n)	(write && fr[n].anon && fr[n].refs == 1)
#endif

/*
 * batch_finish(): the cursor gets a reference of its own (upm_finder_keep()), before that
 * of the batch is given back. take_replaced(): what is left to nobody is freed later.
 */
inline finish(frozen, gone, p)
{
	if
	:: atomic { verdict == FOUND_SHARED;
#ifndef BUG_CURSOR_HAS_NONE
			frame_get(p);
#endif
#ifndef BUG_SHARED_NOT_PUT
			frame_put(p)
#endif
		}
	:: verdict != FOUND_SHARED
	fi;
	if
	:: frozen == NO
	:: else ->
		if
		:: atomic { verdict != FOUND_NOTHING && ONLY_OURS(frozen) ->
				fr[frozen].lock = 0;
				gone = frozen
			}
		:: else -> migrate_vma_finalize(frozen, i)
		fi
	fi
}

/* batch_run(), batch_replace() */
inline batch(m)
{
#ifdef BUG_READ_LOCK
	mmap_read_lock(m);
#else
	mmap_write_lock(m);
#if !defined(BUG_SCAN_BEFORE_VMA_LOCK) && !defined(BUG_VMA_LOCK_AFTER_FREEZE)
	vma_start_write(m);
#endif
#endif
	scan(m);
	prepare(m);
	if
	:: candidate ->
#ifdef BUG_SCAN_BEFORE_VMA_LOCK
		vma_start_write(m);
#endif
#ifdef BUG_IGNORE_GIVEN_UP
		page = mm[m].f;
		migrate_vma_setup(m, frozen, write, i, pinned);
#else
		migrate_vma_setup(m, frozen, write, i, pinned);
		page = frozen;
#endif
#ifdef BUG_VMA_LOCK_AFTER_FREEZE
		vma_start_write(m);
#endif
		if
		:: page != NO -> find(page, p)
		:: else
		fi;
		map(m, p);
		finish(frozen, gone, p)
	:: else
	fi;
#ifdef BUG_READ_LOCK
	mmap_read_unlock(m);
#else
	mmap_write_unlock(m);
#endif
	if
	:: gone != NO -> frame_put(gone); gone = NO	/* batch_free() */
	:: else
	fi
}

/* A call of /dev/upm from open to close. */
proctype advise(byte m)
{
	FAULT_LOCALS;
	byte own, s, e = NO, p = NO, frozen = NO, page = NO, cursor = NO, gone = NO;
	byte verdict = FOUND_NOTHING, i = 0;
	bit candidate, orphan, write, pinned;

	if
	:: atomic { opens ->
#ifndef BUG_NO_OWNER
			users++
#endif
		}
	:: atomic { !opens -> goto closed }
	fi;
	atomic { entry_alloc(own); frame_alloc(s, JUNK) };	/* upm_finder_refill() */
	/* batch_pass(): the mmap_lock is held for reading, for a look only. */
	atomic { !mm[m].wl && !mm[m].ptl -> scan(m) };
	if
	:: candidate || orphan -> batch(m)
	:: else
	fi;
	atomic {	/* upm_finder_release(), close */
		if
		:: cursor != NO ->	/* whoever holds the page holds the entry */
			assert(en[cursor].used && en[cursor].page == p);
			frame_put(p)
		:: else
		fi;
		if
		:: own != NO -> frame_put(s); entry_free(own)
		:: else
		fi;
		assert(loaded);
#ifndef BUG_NO_OWNER
		users--;
#endif
		running--;
		goto ended
	};
closed:
	running--;
ended:
	skip
}

/* ---- main.c, once more -------------------------------------------------------------- */

/* rmmod, insmod, and a call on what was left */
proctype reload()
{
	byte e;

	module_exit(e);
	atomic { loaded = 1; opens = 1 };
	atomic { running++; run advise(0); running-- }
}

#include "programs.pml"

/* ---- begin and end ----------------------------------------------------------------------- */

/* When all have ended: the module goes, and then nothing is left. */
inline all_is_free()
{
	module_exit(e);
	if
	:: cache != NO -> atomic { n = cache; cache = NO; frame_put(n); n = NO }
	:: else
	fi;
	n = 0;
	do
	:: n < NF -> assert(!fr[n].used && !fr[n].lock && fr[n].pins == 0); n++
	:: else -> break
	od;
	n = 0;
	do
	:: n < NE -> assert(!en[n].used); n++
	:: else -> break
	od
}

init {
	byte n, e;

	atomic {
		start(0, 2);
#if defined(PAIR) || defined(SWEEP)
		if
		:: start(1, 2)
		:: start(1, 3)	/* what 0 writes, by the same hash */
		fi;
#endif
#ifdef SWEEP
		known(2);
#endif
#if defined(PAIR)
		running = 3;
		run user(0, 2); run advise(0); run advise(1);
#elif defined(SWEEP)
		running = 3;
		run advise(0); run advise(1); run sweep();
#elif defined(FORK)
		running = 3;
		run user(0, 1); run advise(0); run forker(0, 1);
#elif defined(FAMILY)
		fork_mm(0, 1, n);
		mm[1].expect = 2;
		running = 3;
		run user(0, 1); run advise(0); run advise(1);
#elif defined(PIN)
		if
		:: running = 3;
			run user(0, 1); run advise(0); run forker(0, 1)
		:: running = 3;
			run user(0, 2); run advise(0); run advise(0)
		:: get_not_pin = 1;	/* FOLL_GET, which fork does not see, in plain Linux either */
			running = 2;
			run user(0, 2); run advise(0)
		fi;
#elif defined(UNLOAD)
		running = 4;
		run user(0, 1); run advise(0); run sweep(); run reload();
#elif defined(FILE)
		running = 3;
		run user(0, 2); run advise(0); run drop(0);
#endif
	};
	running == 0;
	atomic {
		exit_mm(0);
#if NM > 1
		exit_mm(1)
#endif
	};
	all_is_free()
}
