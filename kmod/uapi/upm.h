/* SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) OR MIT */
/*
 * UPM (user-guided page merging): the interface of /dev/upm.
 *
 * This is the only copy of the interface. It needs <linux/types.h> and
 * <linux/ioctl.h> and nothing else, from C and from C++.
 *
 * Every structure has a fixed layout without implicit padding, no pointer and
 * no type whose size depends on the machine. Reserved fields must be zero.
 * Structures grow at their end: a kernel takes a shorter (older) one and
 * zero-extends it, and takes a longer (newer) one when the part that it does
 * not know is zero; the size is in the ioctl number. A field that the kernel
 * does not know is never written. The structures of this header are the shortest;
 * only upm_ioc_advise may end anywhere behind its reserved1, and upm_ioc_load
 * anywhere behind its copied.
 *
 * Errors, the same for every call (each also fails with EFAULT when the
 * argument cannot be read or written, and ENOTTY for an unknown call):
 *
 *  EINVAL      unknown flag, contradicting flags, a reserved field that is not
 *              zero, a structure that is too short, addr or len not a multiple
 *              of the page size, addr + len overflows or leaves the address
 *              space
 *  E2BIG       the structure is longer than the kernel's, and the part that
 *              the kernel does not know is not zero
 *  ENOMEM      some page of [addr, addr + len) is not mapped (as madvise(2)
 *              has it), or no memory for the call itself; nothing was changed
 *  EPERM       pid names another process, and the caller lacks CAP_SYS_PTRACE
 *              in the user namespace of its address space
 *  ESRCH       no process pid in the caller's pid namespace, or it has no
 *              address space (a kernel thread, a zombie), or it ended, or
 *              executed another program, while the call ran
 *  EBADF       domain_fd is not an open domain, or see UPM_IOC_LOAD
 *  EMFILE, ENFILE  no file descriptor is left for a domain
 *  ENOSPC      the limit on the number of domains is reached
 *  EINTR       a fatal signal arrived; the counts tell how far the call got
 *  EOPNOTSUPP  an administrator disabled merging (/sys/kernel/upm/enabled),
 *              before the call or while it ran
 *
 * Range and flag errors are found before the first page is touched. A call that
 * ends early while it runs (EINTR, ESRCH, EOPNOTSUPP) has written its counts. What
 * happens to single pages is no error: see struct upm_ioc_counts.
 */
#ifndef _UAPI_UPM_H
#define _UAPI_UPM_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define UPM_ABI_VERSION 1
#define UPM_DEVICE "/dev/upm"
#define UPM_IOC_MAGIC 0xF5

/* Why a page was left as it was: index into upm_ioc_counts.skipped. */
enum upm_skip {
	UPM_SKIP_NOT_PRESENT = 0, /* never touched, or a hole of the file */
	UPM_SKIP_SWAPPED = 1,	  /* in swap, or under migration right now */
	UPM_SKIP_BUSY = 2,	  /* pinned (O_DIRECT, RDMA, vfio), locked, under reclaim, broken */
	UPM_SKIP_SHARED = 3,	  /* MAP_SHARED mapping; or shared by many since a fork */
	UPM_SKIP_HUGETLB = 4,	  /* hugetlbfs mapping */
	UPM_SKIP_SPECIAL = 5,	  /* device, PFN, IO, DAX or other special mapping */
	UPM_SKIP_UFFD = 6,	  /* userfaultfd is armed on the mapping */
	UPM_SKIP_SECRET = 7,	  /* MADV_DONTDUMP, MADV_WIPEONFORK, droppable, secretmem */
	UPM_SKIP_KSM = 8,	  /* merged by KSM already */
	UPM_SKIP_COMPOUND = 9,	  /* part of a large folio that cannot be split here */
	UPM_SKIP_LIMIT = 10,	  /* max_pages reached, in all, in the domain or by the user */
	UPM_SKIP_NOMEM = 11,	  /* no memory for the shared copy */
	UPM_SKIP_COLLISION = 12,  /* another content has the same hash */
	UPM_SKIP_FILE = 13,	  /* private copy of a file's page; or clean, and left out */
	UPM_SKIP_UNMAPPED = 14,	  /* unmapped while the call ran */
	UPM_SKIP_PRESENT = 15,	  /* UPM_IOC_LOAD: there was a page already */
	UPM_SKIP_NR = 16,
	UPM_SKIP_SLOTS = 24	  /* slots in the structure; the rest read 0 */
};

/*
 * What became of each page, in pages. On return
 * pages = merged + inserted + zero + already + unmerged + kept + sum(skipped)
 * holds for the part of the range that was worked on, which ends at `next`.
 */
struct upm_ioc_counts {
	__aligned_u64 pages;	/* pages looked at */
	__aligned_u64 merged;	/* now map a shared page that was known before */
	__aligned_u64 inserted;	/* new content: now map the new shared page */
	__aligned_u64 zero;	/* all zero: dropped, read as the kernel's zero page */
	__aligned_u64 already;	/* mapped a shared page, or the zero page, before */
	__aligned_u64 unmerged;	/* UPM_ADVISE_UNMERGE: private again */
	__aligned_u64 kept;	/* UPM_ADVISE_UNMERGE: were not merged */
	__aligned_u64 skipped[UPM_SKIP_SLOTS];
	__aligned_u64 next;	/* first address not worked on */
	__aligned_u64 nanoseconds; /* time spent in the call */
};

/* upm_ioc_advise.flags */
#define UPM_ADVISE_UNMERGE (1U << 0) /* give merged pages private copies again */
#define UPM_ADVISE_DRY_RUN (1U << 1) /* change nothing, count what would happen */

/*
 * UPM_IOC_ADVISE: merge [addr, addr + len) of a process. Idempotent. A dry run
 * counts against what is known now: equal pages inside the range that are not
 * known yet each count as inserted.
 */
struct upm_ioc_advise {
	__u32 flags;
	__s32 pid;		/* 0: the caller; else a process, see EPERM */
	__s32 domain_fd;	/* -1: the target's default domain */
	__u32 reserved0;
	__aligned_u64 addr;	/* bytes, multiple of the page size */
	__aligned_u64 len;	/* bytes, multiple of the page size; 0 is allowed */
	__aligned_u64 reserved1[2];
	struct upm_ioc_counts counts; /* out */
};

/*
 * UPM_IOC_DOMAIN_OPEN: a named domain. Pages merge inside one domain only. Who
 * knows the key is a member, whatever the uid; the descriptor may be passed on
 * over a Unix socket. The descriptor has close-on-exec set.
 */
struct upm_ioc_domain {
	__u32 flags;		/* must be 0 */
	__s32 fd;		/* out */
	__u8 key[16];		/* random bytes, shared by the members only */
	__aligned_u64 reserved[2];
};

/* upm_ioc_info.features */
#define UPM_FEATURE_REMOTE (1ULL << 0)	   /* pid of another process */
#define UPM_FEATURE_FILE_PAGES (1ULL << 1) /* private file mappings */
#define UPM_FEATURE_DOMAINS (1ULL << 2)	   /* named domains */
#define UPM_FEATURE_DRY_RUN (1ULL << 3)
#define UPM_FEATURE_UNMERGE (1ULL << 4)
#define UPM_FEATURE_NUMA (1ULL << 5)	   /* merge_across_nodes */
#define UPM_FEATURE_LOAD (1ULL << 6)	   /* UPM_IOC_LOAD */

struct upm_ioc_info {
	__u32 abi_version;	/* UPM_ABI_VERSION of the module */
	__u32 page_size;	/* bytes */
	__aligned_u64 features;
	__aligned_u64 advise_flags; /* flags that UPM_IOC_ADVISE takes */
	__u32 batch_pages;
	__u32 enabled;
	__u32 skip_reasons;	/* UPM_SKIP_NR of the module */
	__u32 reserved0;
	char version[16];	/* of the module, NUL-terminated */
	__aligned_u64 reserved1[2];
};

/*
 * UPM_IOC_STATS: the caller's domain, or that of domain_fd. The terms are
 * KSM's: shared is the number of shared pages in use, sharing the number of
 * further places that map one, which is what merging saves.
 */
struct upm_ioc_stats {
	__s32 domain_fd;	/* -1: the caller's default domain */
	__u32 flags;		/* must be 0 */
	__aligned_u64 pages_shared;
	__aligned_u64 pages_sharing;
	__aligned_u64 pages_unused; /* shared pages that nobody maps any more */
	__aligned_u64 max_pages;    /* limit of the domain */
	__aligned_u64 metadata_bytes;
	__aligned_u64 reserved[3];
};

/*
 * UPM_IOC_LOAD: what pread(fd, addr, len, offset) does to the caller's memory, and
 * whole pages of it come to share. A page shares where nothing was before, in a private
 * anonymous mapping that can be written to; all else gets the same bytes by a copy.
 *
 * As pread(2), the call succeeds if it read anything. A call that read less than len
 * came to the end of the file, or was stopped by something, which pread(2) of the rest
 * tells: by its error, or by going on. Before anything is read it fails with what
 * pread(2) would say of descriptor, offset (EINVAL also if offset + len overflows),
 * addr (EFAULT) or the file; EBADF is also said of domain_fd. It fails with EOPNOTSUPP
 * where the file has to be read by read(2): it is not a regular one, is open for direct
 * I/O, has no size (as those of /proc), or its file system reads in an old way; also if
 * merging is disabled.
 *
 * counts is about the whole pages among the bytes that were read.
 */
struct upm_ioc_load {
	__u32 flags;		/* must be 0 */
	__s32 fd;		/* open for reading */
	__s32 domain_fd;	/* -1: the caller's default domain */
	__u32 reserved0;
	__aligned_u64 offset;	/* bytes, in the file, whose position stays */
	__aligned_u64 addr;	/* of any byte */
	__aligned_u64 len;	/* bytes */
	__aligned_u64 reserved1[3];
	__aligned_u64 done;	/* out: bytes that were read */
	__aligned_u64 copied;	/* out: of these, in pages that do not share */
	struct upm_ioc_counts counts; /* out */
};

#define UPM_IOC_INFO _IOWR(UPM_IOC_MAGIC, 0, struct upm_ioc_info)
#define UPM_IOC_ADVISE _IOWR(UPM_IOC_MAGIC, 1, struct upm_ioc_advise)
#define UPM_IOC_DOMAIN_OPEN _IOWR(UPM_IOC_MAGIC, 2, struct upm_ioc_domain)
#define UPM_IOC_STATS _IOWR(UPM_IOC_MAGIC, 3, struct upm_ioc_stats)
#define UPM_IOC_LOAD _IOWR(UPM_IOC_MAGIC, 4, struct upm_ioc_load)

#endif /* _UAPI_UPM_H */
