/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A model of what the kernel does around the freeze (for spin): frames and their
 * references, page tables, TLBs, the locks of an address space, faults, munmap, fork,
 * pins, and migrate_vma_setup() and migrate_vma_finalize(). What the module does is in
 * freeze.pml.
 *
 * Each address space is one page. Its one user thread runs on one processor, whose TLB
 * may hold an old translation until it is flushed. A section under a page table's lock is
 * one step for those who take that lock; the processor's walk and a lockless pin do not
 * take it, so the freeze clears an entry, flushes, and goes on in steps of its own.
 * Memory is sequentially consistent: barriers are not modelled.
 */

/* NM: address spaces, a fork's child after its parent. NF: frames. */
#define NO	15	/* no frame, no entry */
#define JUNK	14	/* what a frame holds that was freed */

/* Contents. Zero is what a missing page reads as; in a file, FILE_DATA. */
#define FILE_DATA	2

/* struct page. A frozen reference count (page_ref_freeze()) is a used frame with 0. */
typedef frame_t {
	bit used;
	byte refs;
	byte data;
	bit anon;
	bit excl;	/* PageAnonExclusive */
	bit lock;
	byte pins;	/* those of FOLL_PIN, which page_maybe_dma_pinned() sees */
	byte tag;	/* page->private: OURS, ORPHAN */
};

#define OURS	1
#define ORPHAN	2

#define NONE		0
#define PRESENT		1
#define MIGRATION	2

typedef mm_t {
	bit live;
	byte kind;	/* the PTE: NONE, PRESENT, MIGRATION */
	byte f;		/* its frame */
	bit w;		/* writable; of a migration entry: will be */
	bit x;		/* of a migration entry: exclusive */
	bit ptl;	/* held over more than one step */
	bit tlb;	/* the processor holds a translation */
	byte tf;
	bit tw;
	bit wl;		/* mmap_lock */
	byte rl;
	bit vw;		/* lock of the VMA */
	byte vr;
	byte forks;	/* write_protect_seq */
	bit anon_vma;
	byte expect;	/* what the user thread must read */
};

frame_t fr[NF];
mm_t mm[NM];
byte cache = NO;	/* the frame of the page cache */

/* Locals of a process that takes faults, and unused ones by default. */
#define FAULT_LOCALS	byte todo = 0, old_f = NO, new_f = NO
#define FAULT_DONE	0
#define FAULT_FILL	1
#define FAULT_WAIT	2
#define FAULT_COPY	3

/* ---- frames ------------------------------------------------------------- */

#define MAPS(m, n)	(mm[m].kind != NONE && mm[m].f == (n))
#define TRANSLATES(m, n) (mm[m].tlb && mm[m].tf == (n))
#if NM == 1
#define NAMED(n)	(MAPS(0, n) || TRANSLATES(0, n))
#else
#define NAMED(n)	(MAPS(0, n) || TRANSLATES(0, n) || MAPS(1, n) || TRANSLATES(1, n))
#endif

/* alloc_page(): one reference. The frame that was freed last may well come back. */
inline frame_alloc(n, value)
{
	atomic {
		n = 0;
		do
		:: n < NF && fr[n].used -> n++
		:: else -> break
		od;
		assert(n < NF);		/* the model has frames enough */
		fr[n].used = 1;
		fr[n].refs = 1;
		fr[n].data = value
	}
}

/* put_page(): the last one frees it, and then nobody may name it. */
inline frame_put(n)
{
	atomic {
		assert(fr[n].used && fr[n].refs > 0);
		fr[n].refs--;
		if
		:: fr[n].refs == 0 ->
			assert(!NAMED(n) && !fr[n].lock && fr[n].pins == 0 && cache != n);
			fr[n].used = 0;
			fr[n].data = JUNK;
			fr[n].anon = 0;
			fr[n].excl = 0;
			fr[n].tag = 0
		:: else
		fi
	}
}

/* ---- page tables and locks ----------------------------------------------- */

inline pte_clear(m)
{
	mm[m].kind = NONE;
	mm[m].f = 0;
	mm[m].w = 0;
	mm[m].x = 0
}

inline pte_set(m, n, write)
{
	mm[m].kind = PRESENT;
	mm[m].f = n;
	mm[m].w = write;
	mm[m].x = 0
}

inline tlb_flush(m)
{
	atomic { mm[m].tlb = 0; mm[m].tf = 0; mm[m].tw = 0 }
}

inline mmap_write_lock(m)
{
	atomic { !mm[m].wl && mm[m].rl == 0 -> mm[m].wl = 1 }
}

/* Waits for the faults that hold the VMA; the mmap_lock is held for writing. */
inline vma_start_write(m)
{
	atomic { mm[m].vr == 0 -> mm[m].vw = 1 }
}

inline mmap_write_unlock(m)
{
	atomic { mm[m].vw = 0; mm[m].wl = 0 }
}

inline mmap_read_lock(m)
{
	atomic { !mm[m].wl -> mm[m].rl++ }
}

inline mmap_read_unlock(m)
{
	mm[m].rl--
}

/* What a fault takes: the VMA's lock since 6.4, the mmap_lock before. */
#ifdef VMA_LOCK
#define FAULT_LOCK(m)	atomic { !mm[m].vw -> mm[m].vr++ }
#define FAULT_UNLOCK(m)	mm[m].vr--
#else
#define FAULT_LOCK(m)	mmap_read_lock(m)
#define FAULT_UNLOCK(m)	mmap_read_unlock(m)
#endif

/* ---- faults --------------------------------------------------------------- */

/* The entry at the fault: handle_pte_fault(), do_wp_page(), wp_can_reuse_anon_folio(). */
inline fault_look(m, write)
{
	atomic {
		!mm[m].ptl;
		old_f = mm[m].f;
		if
		:: mm[m].kind == NONE -> todo = FAULT_FILL
		:: mm[m].kind == MIGRATION -> todo = FAULT_WAIT
		:: mm[m].kind == PRESENT && (write) && !mm[m].w ->
			if
			:: fr[old_f].anon && (fr[old_f].excl || (fr[old_f].refs == 1 && !fr[old_f].lock)) ->
				fr[old_f].excl = 1;
				mm[m].w = 1;
				todo = FAULT_DONE
			:: else ->
				fr[old_f].refs++;
				todo = FAULT_COPY
			fi
		:: else -> todo = FAULT_DONE
		fi
	}
}

/* do_anonymous_page(), or do_read_fault() of a file. */
inline fault_fill(m)
{
#ifdef FILE
	atomic {
		if
		:: cache == NO -> frame_alloc(new_f, FILE_DATA); cache = new_f
		:: else -> new_f = cache
		fi;
		fr[new_f].refs++
	};
	atomic {
		!mm[m].ptl;
		if
		:: mm[m].kind == NONE -> pte_set(m, new_f, 0)
		:: else -> frame_put(new_f)
		fi
	}
#else
	frame_alloc(new_f, 0);
	atomic {
		!mm[m].ptl;
		if
		:: mm[m].kind == NONE ->
			fr[new_f].anon = 1;
			fr[new_f].excl = 1;
			mm[m].anon_vma = 1;
			pte_set(m, new_f, 1)
		:: else -> frame_put(new_f)
		fi
	}
#endif
}

/* wp_page_copy(); @write: what vm_page_prot and VM_WRITE make of the new entry. */
inline fault_copy(m, write)
{
	frame_alloc(new_f, JUNK);
	atomic { assert(fr[old_f].used); fr[new_f].data = fr[old_f].data };
	atomic {
		!mm[m].ptl;
		if
		:: mm[m].kind == PRESENT && mm[m].f == old_f && !mm[m].w ->
			tlb_flush(m);
			fr[new_f].anon = 1;
			fr[new_f].excl = 1;
			mm[m].anon_vma = 1;
			pte_set(m, new_f, write);
			frame_put(old_f)
		:: else -> frame_put(new_f)
		fi
	};
	frame_put(old_f)
}

/* handle_mm_fault(); the caller holds a lock that keeps the VMA. */
inline handle_fault(m, write)
{
	fault_look(m, write);
	if
	:: todo == FAULT_FILL -> fault_fill(m)
	:: todo == FAULT_WAIT ->	/* migration_entry_wait(): for the folio's lock */
		!(fr[old_f].lock && mm[m].kind == MIGRATION && mm[m].f == old_f)
	:: todo == FAULT_COPY -> fault_copy(m, 1)
	:: else
	fi;
	atomic { todo = 0; old_f = NO; new_f = NO }
}

inline fault(m, write)
{
	FAULT_LOCK(m);
	handle_fault(m, write);
	FAULT_UNLOCK(m)
}

/* ---- a user thread's instructions ------------------------------------------ */

#define CAN_LOAD(m)	(mm[m].tlb)
#define CAN_STORE(m)	(mm[m].tlb && mm[m].tw)
#define FITS(m, write)	(mm[m].kind == PRESENT && (mm[m].w || !(write)))

/* The processor walks the page table without any lock. */
inline tlb_fill(m)
{
	mm[m].tlb = 1;
	mm[m].tf = mm[m].f;
	mm[m].tw = mm[m].w
}

inline load(m, value)
{
	do
	:: atomic { CAN_LOAD(m) || FITS(m, 0) ->
			if
			:: CAN_LOAD(m)
			:: else -> tlb_fill(m)
			fi;
			assert(fr[mm[m].tf].used);
			value = fr[mm[m].tf].data;
			break
		}
	:: !CAN_LOAD(m) && !FITS(m, 0) -> fault(m, 0)
	od
}

inline store(m, value)
{
	do
	:: atomic { CAN_STORE(m) -> assert(fr[mm[m].tf].used); fr[mm[m].tf].data = value; break }
	:: atomic { !CAN_STORE(m) && FITS(m, 1) -> tlb_fill(m) }
	:: !CAN_STORE(m) && !FITS(m, 1) -> fault(m, 1)
	od
}

/* zap_pte_range() with its flush; @n is a local of the caller. */
inline zap(m, n)
{
	n = NO;
	atomic {
		!mm[m].ptl;
		if
		:: mm[m].kind == PRESENT -> n = mm[m].f
		:: else
		fi;
		pte_clear(m)
	};
	tlb_flush(m);
	if
	:: n != NO -> frame_put(n); n = NO
	:: else
	fi
}

/* mmap(MAP_FIXED) over the page: munmap, and memory of zeros in its place. */
inline remap(m, n)
{
	mmap_write_lock(m);
	vma_start_write(m);
	zap(m, n);
	mmap_write_unlock(m)
}

/* ---- pins ------------------------------------------------------------------ */

/* try_grab_page(): a reference, and by FOLL_PIN one that fork sees. */
inline grab(n, pin)
{
	fr[n].refs++;
	fr[n].pins = fr[n].pins + pin
}

inline unpin(n, pin)
{
	fr[n].pins = fr[n].pins - pin;
	frame_put(n)
}

/* gup_pte_range(): no lock, but a second look. @n: the frame, or NO; @s is a local. */
inline gup_fast(m, n, pin, s)
{
	s = mm[m].forks;
	if
	:: atomic { FITS(m, 1) && !(s & 1) -> n = mm[m].f };
		if
		:: atomic { fr[n].refs > 0 -> grab(n, pin) };
			atomic {
				if
				:: FITS(m, 1) && mm[m].f == n && mm[m].forks == s
				:: else -> unpin(n, pin); n = NO
				fi
			}
		:: atomic { fr[n].refs == 0 -> n = NO }
		fi
	:: !FITS(m, 1) || (s & 1)
	fi;
	s = 0
}

/* __get_user_pages(FOLL_WRITE) */
inline gup_slow(m, n, pin)
{
	mmap_read_lock(m);
	do
	:: atomic { !mm[m].ptl && FITS(m, 1) -> n = mm[m].f; grab(n, pin); break }
	:: !mm[m].ptl && !FITS(m, 1) -> handle_fault(m, 1)
	od;
	mmap_read_unlock(m)
}

/* ---- fork ------------------------------------------------------------------- */

/* copy_present_pte(), copy_nonpresent_pte(): @n is a local. */
inline copy_pte(from, to, n)
{
	atomic {
		!mm[from].ptl && !mm[to].ptl;
		n = mm[from].f;
		if
		:: mm[from].kind == PRESENT && fr[n].anon && fr[n].pins > 0 ->
			frame_alloc(n, fr[mm[from].f].data);
			fr[n].anon = 1;
			fr[n].excl = 1;
			pte_set(to, n, 1)
		:: mm[from].kind == PRESENT && !(fr[n].anon && fr[n].pins > 0) ->
			fr[n].refs++;
			fr[n].excl = 0;
			mm[from].w = 0;
			pte_set(to, n, 0)
		:: mm[from].kind == MIGRATION ->
			mm[from].w = 0;
			mm[from].x = 0;
			pte_set(to, n, 0);
			mm[to].kind = MIGRATION
		:: else
		fi;
		n = NO
	}
}

/* dup_mmap() */
inline fork_mm(from, to, n)
{
	mmap_write_lock(from);
	vma_start_write(from);
	mm[from].forks++;
	copy_pte(from, to, n);
	tlb_flush(from);
	mm[from].forks++;
	mm[to].live = 1;
	mmap_write_unlock(from)
}

/* ---- migrate_vma_setup() and migrate_vma_finalize() ------------------------------ */

/* remove_migration_ptes(), by the rmap: a parent before its children. @i is a local. */
inline remove_migration_ptes(n, i)
{
	i = 0;
	do
	:: i < NM ->
		atomic {
			!mm[i].ptl;
			if
			:: mm[i].kind == MIGRATION && mm[i].f == n ->
				fr[n].refs++;
				fr[n].excl = fr[n].excl | mm[i].x;
				mm[i].kind = PRESENT;
				mm[i].x = 0
			:: else
			fi;
			i++
		}
	:: else -> break
	od;
	i = 0
}

/* The page goes back to all that still have an entry for it. */
inline migrate_vma_finalize(n, i)
{
	remove_migration_ptes(n, i);
	atomic { fr[n].lock = 0; frame_put(n) }
}

/* ptep_clear(): the page table's lock is held from here on. */
inline pte_take(m)
{
	mm[m].ptl = 1;
	mm[m].kind = NONE
}

/* The entry that was taken becomes a migration entry, unless its page is pinned. */
inline pte_freeze(m, n, pinned)
{
#ifndef BUG_NO_FLUSH
	tlb_flush(m);
#endif
	atomic {
		if
		:: fr[n].anon && fr[n].excl && fr[n].pins > 0 ->	/* page_try_share_anon_rmap() */
			mm[m].kind = PRESENT;
			pinned = 1
		:: else ->
			mm[m].kind = MIGRATION;
			mm[m].x = fr[n].excl;
			fr[n].excl = 0;
			fr[n].refs--;
			pinned = 0
		fi;
		mm[m].ptl = 0
	}
}

/* try_to_migrate(): the other mappings, in whatever process. */
inline try_to_migrate(n, i, pinned)
{
	i = 0;
	do
	:: i < NM ->
		if
		:: atomic { !mm[i].ptl && mm[i].kind == PRESENT && mm[i].f == n -> pte_take(i) };
			pte_freeze(i, n, pinned)
		:: atomic { !mm[i].ptl && !(mm[i].kind == PRESENT && mm[i].f == n) }
		fi;
		i++
	:: else -> break
	od;
	i = 0
}

/*
 * migrate_vma_check_page(): a frozen page has the reference of the isolation, and that of
 * the page cache. BUG_COUNT_FIRST counts before the entries are cleared.
 */
#define UNPINNED(n, mappings)	(fr[n].refs == (mappings) + 1 + (cache == (n)))
#if defined(BUG_NO_COUNT) || defined(BUG_COUNT_FIRST)
#define IS_FREE(n)	true
#else
#define IS_FREE(n)	UNPINNED(n, 0)
#endif
#define MAY_FREEZE(n)	(fr[n].tag == 0 && !fr[n].lock)

/*
 * @n: the frozen page, locked and isolated, or NO; @write: what its entry was. @i and
 * @pinned are locals. A page without a mapping, so one of ours, is left (page->mapping).
 */
inline migrate_vma_setup(m, n, write, i, pinned)
{
	n = NO;
	write = 0;
#ifdef BUG_COUNT_FIRST
	atomic { pinned = mm[m].kind == PRESENT && !UNPINNED(mm[m].f, 0) };
#endif
	atomic {
		!mm[m].ptl;
		if
		:: mm[m].kind == PRESENT && MAY_FREEZE(mm[m].f) && !pinned ->
			n = mm[m].f;
			fr[n].refs++;
			fr[n].lock = 1;
			write = mm[m].w;
			pte_take(m)
		:: else -> pinned = 0
		fi
	};
	if
	:: n != NO ->
		pte_freeze(m, n, pinned);
		if
		:: pinned -> atomic { pinned = 0; fr[n].lock = 0; frame_put(n); n = NO }
		:: else ->
			try_to_migrate(n, i, pinned);
			pinned = 0;
			if
			:: IS_FREE(n)
			:: else -> migrate_vma_finalize(n, i); n = NO
			fi
		fi
	:: else
	fi
}
