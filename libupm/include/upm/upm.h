/* SPDX-License-Identifier: MIT */
/*
 * libupm, C interface: tell the system which memory is worth sharing.
 *
 * Every function returns 0 (or a non-negative value where said) or a negative
 * errno, prints nothing, throws nothing, and may be called from any thread.
 * See upm_advise(3).
 */
/* clang-format off */
#ifndef UPM_UPM_H
#define UPM_UPM_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#ifdef __GNUC__
/* As with stat(2), a structure and the function that fills it share a name. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wshadow"
#endif
#endif

/* Why pages were left as they were: index into upm_counts.skipped. The values
 * equal those of the kernel interface. */
enum upm_skip_reason {
	UPM_SKIPPED_NOT_PRESENT = 0, /* never touched, or a hole of the file */
	UPM_SKIPPED_SWAPPED = 1,
	UPM_SKIPPED_BUSY = 2,	     /* pinned by I/O, locked, or under reclaim */
	UPM_SKIPPED_SHARED = 3,	     /* MAP_SHARED */
	UPM_SKIPPED_HUGETLB = 4,
	UPM_SKIPPED_SPECIAL = 5,     /* device, DAX or other special mapping */
	UPM_SKIPPED_UFFD = 6,	     /* userfaultfd armed */
	UPM_SKIPPED_SECRET = 7,	     /* MADV_DONTDUMP, MADV_WIPEONFORK, ... */
	UPM_SKIPPED_KSM = 8,
	UPM_SKIPPED_COMPOUND = 9,    /* part of a large folio */
	UPM_SKIPPED_LIMIT = 10,
	UPM_SKIPPED_NOMEM = 11,
	UPM_SKIPPED_COLLISION = 12,
	UPM_SKIPPED_FILE = 13,	     /* private copy of a file's page, or switched off */
	UPM_SKIPPED_UNMAPPED = 14,   /* unmapped during the call */
	UPM_SKIPPED_PRESENT = 15,    /* of a load: there was a page already */
	/* The last slot is the library's own: the kernel's grow from below. */
	UPM_SKIPPED_UNSUPPORTED = 23, /* the backend cannot do it */
	UPM_SKIPPED_NR = 24	     /* slots; unknown ones have the name NULL */
};

/*
 * What became of each page. pages is the sum of the others up to and including
 * skipped. The backend ksm cannot tell at once: it counts pages as `queued`.
 */
struct upm_counts {
	uint64_t pages;		/* whole pages inside the range */
	uint64_t merged;	/* now share a page that was known before */
	uint64_t inserted;	/* new content, now a shared page */
	uint64_t zero;		/* all zero, dropped */
	uint64_t already;	/* were merged before */
	uint64_t queued;	/* handed to a background scanner (backend ksm) */
	uint64_t unmerged;	/* upm_unmerge: private again */
	uint64_t kept;		/* upm_unmerge: were not merged */
	uint64_t skipped[UPM_SKIPPED_NR];
	uint64_t bytes;		/* (merged + inserted + zero) in bytes */
	uint64_t nanoseconds;	/* time spent */
};

/* flags of upm_advise */
#define UPM_DRY_RUN (1u << 0) /* change nothing, predict the counts */
/* The caller vouches that nobody writes to the range during the call, system calls
 * included. Needed where upm_info.quiescent is 1, without effect elsewhere. */
#define UPM_QUIESCENT (1u << 1)

/*
 * upm_advise - merge the whole pages inside [addr, addr + len).
 *
 * Idempotent. Memory keeps its bytes and stays private: a write gives the
 * writer its own copy. counts may be NULL; it is written also on error, with
 * what was done until then.
 * Returns 0 or -EINVAL (flags, overflow), -ENOMEM (an unmapped hole in the
 * range; nothing changed), -EOPNOTSUPP (no backend, or disabled), -EINTR.
 */
int upm_advise(void *addr, size_t len, unsigned flags, struct upm_counts *counts);

/* upm_unmerge - give merged pages of the range private copies again. Where
 * upm_info.quiescent is 1, the caller vouches by the call itself. */
int upm_unmerge(void *addr, size_t len, struct upm_counts *counts);

/*
 * upm_advise_pid - the same for another process. pid is a process of the
 * caller's pid namespace; needs CAP_SYS_PTRACE over it. addr as in that process.
 * Further errors: -EPERM, -ESRCH, -EOPNOTSUPP (backend without this).
 */
int upm_advise_pid(int pid, uint64_t addr, uint64_t len, unsigned flags, struct upm_counts *counts);
int upm_unmerge_pid(int pid, uint64_t addr, uint64_t len, struct upm_counts *counts);

/*
 * What became of the bytes of a load: shared + made + copied = bytes.
 */
struct upm_load_counts {
	uint64_t bytes;		/* read, as pread(2) would have */
	uint64_t shared;	/* of these, in pages that were known: now mapped */
	uint64_t made;		/* in pages that this load had made for others to share */
	uint64_t copied;	/* private, as pread(2) leaves them */
	uint64_t nanoseconds;	/* time spent */
	uint64_t reserved[3];
};

/* flags of upm_load */
/* The caller vouches that all of the destination is ordinary memory: one private
 * anonymous mapping that can be read and written, is not locked, and has no property
 * set by madvise(2), mbind(2), userfaultfd(2) and their like. Saves the look at it. */
#define UPM_LOAD_ORDINARY (1u << 0)
/* Nobody waits for the load: it may come some seconds later than a plain read would, so
 * that more of it comes to share. */
#define UPM_LOAD_PATIENT (1u << 1)

/*
 * upm_load - read a file into memory that comes to be shared.
 *
 * Does what pread(2) does, in a loop until `len` bytes or the end of the file; the
 * file position stays. Whole pages of the destination that do not exist yet come to
 * share the pages of other processes of the domain that loaded the same bytes to the
 * same place within a page: after every byte was compared with what this call read.
 * All else gets a plain copy. The memory stays private: a write gives the writer its
 * own copy. Where upm_info.restores is 1, MADV_DONTNEED on it brings these bytes back.
 * counts may be NULL; it is written also on error.
 * Returns the bytes read (fewer than `len`: the end of the file, or an error behind
 * them), or -EINVAL (flags, a negative offset, overflow), -EBADF, -EFAULT, -EIO,
 * -EISDIR, -ESPIPE and what else pread(2) fails with.
 */
int64_t upm_load(int fd, int64_t offset, void *into, size_t len, unsigned flags,
		 struct upm_load_counts *counts);

/*
 * Asynchronous advise on a worker thread of the library: the call only queues.
 * upm_advise_async returns an eventfd (close-on-exec, >= 0) that becomes
 * readable when the work is done; upm_async_finish waits for it, closes it and
 * returns what upm_advise would have returned. Every started advise must be
 * finished once. The range must stay mapped until then.
 */
int upm_advise_async(void *addr, size_t len, unsigned flags);
int upm_async_finish(int fd, struct upm_counts *counts);

/*
 * Domains: pages merge inside one domain only. The default one holds the
 * processes of the same user in the same user namespace. A named one holds who
 * knows its 16-byte key, or was passed its descriptor.
 * upm_domain_open returns a descriptor (close-on-exec); close(2) ends it.
 * upm_domain_use makes the library advise in it from now on (-1: default).
 */
int upm_domain_open(const uint8_t key[16]);
int upm_domain_use(int fd);

/* Which backend is active, and why. Strings are static. */
struct upm_info {
	const char *backend; /* "kmod", "store", "ksm", "none" */
	const char *reason;  /* one line: why this one and not a better one */
	const char *version; /* of the library */
	uint32_t page_size;  /* bytes */
	uint32_t immediate;  /* 1: advise merges before it returns */
	uint32_t remote;     /* 1: upm_advise_pid works (given the privilege) */
	uint32_t file_pages; /* 1: private file mappings merge */
	uint32_t unmerge;    /* 1: upm_unmerge works */
	uint32_t dry_run;    /* 1: UPM_DRY_RUN works */
	uint32_t domains;    /* 1: named domains work */
	uint32_t restores;   /* 1: MADV_DONTNEED on merged pages brings their bytes back */
	uint32_t quiescent;  /* 1: advise takes only calls with UPM_QUIESCENT */
	uint32_t load;	     /* upm_load: 0 reads plainly, 1 reads and then merges, 2 shares
				while it reads */
	uint64_t reserved[3];
};
int upm_info(struct upm_info *info);

/* Totals of the caller's domain (kmod, store) or of the machine (ksm). */
struct upm_stats {
	uint64_t pages_shared;	 /* shared pages in use */
	uint64_t pages_sharing;	 /* further places that map one: pages saved */
	uint64_t pages_unused;	 /* shared pages that nobody maps any more */
	uint64_t max_pages;	 /* limit, 0: none */
	uint64_t metadata_bytes; /* cost of the bookkeeping */
	uint64_t reserved[3];
};
int upm_stats(struct upm_stats *stats);

/* Name of a skip reason ("busy" ...), NULL for an unused slot. */
const char *upm_skip_name(unsigned reason);

#ifdef __cplusplus
#ifdef __GNUC__
#pragma GCC diagnostic pop
#endif
}
#endif
#endif /* UPM_UPM_H */
