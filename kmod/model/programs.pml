/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Programs and what else happens to their memory, for freeze.pml: threads that write and
 * map anew, devices, forks, and a page cache that drops pages.
 */

/* Instructions of one thread. Of each program one thread touches the memory. */
#define WRITES(m)	(3 + (m))
#define DEVICE_WRITES	9
bit get_not_pin;

inline check(m)
{
	load(m, value);
	assert(value == mm[m].expect);
	value = 0
}

inline write_some(m)
{
	store(m, WRITES(m));
	mm[m].expect = WRITES(m)
}

/* A device writes to the page and reads it, as by O_DIRECT or RDMA. */
inline use_device(m, pin)
{
	if
	:: gup_fast(m, n, pin, forks)
	:: skip
	fi;
	if
	:: n == NO -> gup_slow(m, n, pin)
	:: else
	fi;
	atomic { assert(fr[n].used); fr[n].data = DEVICE_WRITES; mm[m].expect = DEVICE_WRITES };
	check(m);
	write_some(m);
	atomic { assert(fr[n].used); assert(fr[n].data == mm[m].expect); unpin(n, pin); n = NO }
}

proctype user(byte m; byte ops)
{
	FAULT_LOCALS;
	byte value, n = NO, forks;

	do
	:: ops > 0 ->
		ops--;
		if
		:: write_some(m)
#ifdef PIN
		:: use_device(m, !get_not_pin)
#elif !defined(FILE)
		:: remap(m, n); mm[m].expect = 0
#endif
		:: skip
		fi;
		check(m)
	:: else -> break
	od;
	running--
}

/*
 * fork(2) by another thread, and the child. What the parent writes meanwhile comes
 * before or after.
 */
proctype forker(byte from; byte to)
{
	FAULT_LOCALS;
	byte value, n = NO;

	fork_mm(from, to, n);
	load(to, value);
	assert(value == 2 || value == WRITES(from) || value == DEVICE_WRITES || value == 0);
	mm[to].expect = value;
	check(to);
	write_some(to);
	check(to);
	running--
}

/* Invalidation of the page cache: unmap_mapping_range() of what is not anonymous, and
 * invalidate_complete_folio2(). No lock of an address space is taken. */
proctype drop(byte m)
{
	byte n = NO, old = NO;

	atomic {
		!mm[m].ptl;
		if
		:: mm[m].kind == PRESENT && !fr[mm[m].f].anon -> n = mm[m].f; pte_clear(m)
		:: mm[m].kind == MIGRATION && !fr[mm[m].f].anon -> pte_clear(m)
		:: else
		fi
	};
	tlb_flush(m);
	if
	:: n != NO -> frame_put(n)
	:: else
	fi;
	old = cache;
	if
	:: atomic { old != NO && !fr[old].lock -> fr[old].lock = 1 };
		atomic {
			fr[old].lock = 0;
			if
			:: fr[old].refs == 1 -> cache = NO; frame_put(old)
			:: else
			fi
		}
	:: old == NO || fr[old].lock
	fi;
	running--
}

/* A program with one page of @data, in memory of its own or of the file. */
inline start(m, d)
{
	mm[m].live = 1;
	mm[m].expect = d;
	frame_alloc(n, d);
#ifdef FILE
	cache = n;
	fr[n].refs = 2;
	pte_set(m, n, 0);
#else
	fr[n].anon = 1;
	fr[n].excl = 1;
	mm[m].anon_vma = 1;
	pte_set(m, n, 1);
#endif
	n = NO
}

/* An entry that nobody maps any more. */
inline known(d)
{
	entry_alloc(e);
	frame_alloc(n, d);
	fr[n].tag = OURS;
	en[e].page = n;
	en[e].listed = 1;
	bucket = e;
	n = NO;
	e = NO
}

/* exit_mmap(), after a last look */
inline exit_mm(m)
{
	assert(mm[m].kind != MIGRATION && !mm[m].wl && mm[m].rl == 0 && !mm[m].vw && mm[m].vr == 0);
	assert(!mm[m].live || mm[m].kind == NONE || fr[mm[m].f].data == mm[m].expect);
	zap(m, n)
}
