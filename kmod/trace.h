/* SPDX-License-Identifier: GPL-2.0-only */
/* Tracepoints upm:*. Times in nanoseconds, lengths in bytes. */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM upm

#if !defined(UPM_KMOD_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define UPM_KMOD_TRACE_H

#include <linux/tracepoint.h>

#include "upm.h"

/* One call, at its end. */
TRACE_EVENT(upm_call,
	TP_PROTO(pid_t pid, u32 flags, u64 addr, u64 len,
		 const struct upm_ioc_counts *counts, int err),
	TP_ARGS(pid, flags, addr, len, counts, err),
	TP_STRUCT__entry(
		__field(pid_t, pid)
		__field(u32, flags)
		__field(u64, addr)
		__field(u64, len)
		__field(u64, pages)
		__field(u64, merged)
		__field(u64, inserted)
		__field(u64, zero)
		__field(u64, already)
		__field(u64, unmerged)
		__field(u64, nanoseconds)
		__field(int, err)
	),
	TP_fast_assign(
		__entry->pid = pid;
		__entry->flags = flags;
		__entry->addr = addr;
		__entry->len = len;
		__entry->pages = counts->pages;
		__entry->merged = counts->merged;
		__entry->inserted = counts->inserted;
		__entry->zero = counts->zero;
		__entry->already = counts->already;
		__entry->unmerged = counts->unmerged;
		__entry->nanoseconds = counts->nanoseconds;
		__entry->err = err;
	),
	TP_printk("pid=%d flags=%#x addr=%#llx len=%llu pages=%llu merged=%llu inserted=%llu zero=%llu already=%llu unmerged=%llu ns=%llu err=%d",
		  __entry->pid, __entry->flags, __entry->addr, __entry->len,
		  __entry->pages, __entry->merged, __entry->inserted,
		  __entry->zero, __entry->already, __entry->unmerged,
		  __entry->nanoseconds, __entry->err)
);

/* One load, at its end. */
TRACE_EVENT(upm_load,
	TP_PROTO(pid_t pid, const struct upm_ioc_load *load, int err),
	TP_ARGS(pid, load, err),
	TP_STRUCT__entry(
		__field(pid_t, pid)
		__field(u64, offset)
		__field(u64, addr)
		__field(u64, len)
		__field(u64, done)
		__field(u64, copied)
		__field(u64, nanoseconds)
		__field(int, err)
	),
	TP_fast_assign(
		__entry->pid = pid;
		__entry->offset = load->offset;
		__entry->addr = load->addr;
		__entry->len = load->len;
		__entry->done = load->done;
		__entry->copied = load->copied;
		__entry->nanoseconds = load->counts.nanoseconds;
		__entry->err = err;
	),
	TP_printk("pid=%d offset=%llu addr=%#llx len=%llu done=%llu copied=%llu ns=%llu err=%d",
		  __entry->pid, __entry->offset, __entry->addr, __entry->len,
		  __entry->done, __entry->copied, __entry->nanoseconds,
		  __entry->err)
);

/* One batch: pages from addr on, and how long the mmap lock was held. */
TRACE_EVENT(upm_batch,
	TP_PROTO(u64 addr, unsigned int pages, u64 locked_ns),
	TP_ARGS(addr, pages, locked_ns),
	TP_STRUCT__entry(
		__field(u64, addr)
		__field(unsigned int, pages)
		__field(u64, locked_ns)
	),
	TP_fast_assign(
		__entry->addr = addr;
		__entry->pages = pages;
		__entry->locked_ns = locked_ns;
	),
	TP_printk("addr=%#llx pages=%u locked_ns=%llu", __entry->addr,
		  __entry->pages, __entry->locked_ns)
);

/* A domain was created or removed. kind: enum upm_domain_kind. */
TRACE_EVENT(upm_domain,
	TP_PROTO(u32 id, int kind, bool created),
	TP_ARGS(id, kind, created),
	TP_STRUCT__entry(
		__field(u32, id)
		__field(int, kind)
		__field(bool, created)
	),
	TP_fast_assign(
		__entry->id = id;
		__entry->kind = kind;
		__entry->created = created;
	),
	TP_printk("id=%u kind=%s %s", __entry->id,
		  __print_symbolic(__entry->kind, { 0, "container" },
				   { 1, "uid" }, { 2, "cgroup" },
				   { 3, "global" }, { 4, "alone" },
				   { 5, "named" }),
		  __entry->created ? "created" : "removed")
);

/* A sweep over one domain. */
TRACE_EVENT(upm_sweep,
	TP_PROTO(u32 domain, unsigned long visited, unsigned long freed),
	TP_ARGS(domain, visited, freed),
	TP_STRUCT__entry(
		__field(u32, domain)
		__field(unsigned long, visited)
		__field(unsigned long, freed)
	),
	TP_fast_assign(
		__entry->domain = domain;
		__entry->visited = visited;
		__entry->freed = freed;
	),
	TP_printk("domain=%u visited=%lu freed=%lu", __entry->domain,
		  __entry->visited, __entry->freed)
);

#endif /* UPM_KMOD_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
