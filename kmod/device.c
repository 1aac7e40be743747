// SPDX-License-Identifier: GPL-2.0-only
/*
 * /dev/upm: decodes and checks the calls of uapi/upm.h, and nothing else.
 *
 * Any user may open it: a call works on the caller's own memory, which stays
 * private by copy-on-write, and merges inside the caller's domain. Memory of
 * others needs CAP_SYS_PTRACE in the user namespace of their address space.
 */
#include <linux/capability.h>
#include <linux/file.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/pid.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/timekeeping.h>
#include <linux/uaccess.h>

#include "compat/compat.h"
#include "upm.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

#define ADVISE_FLAGS (UPM_ADVISE_UNMERGE | UPM_ADVISE_DRY_RUN)

/*
 * Copy back what the caller's structure has room for. @usize is the size that
 * the caller's header gives the structure.
 */
static int result_copy(void __user *to, const void *from, size_t ksize,
		       size_t usize)
{
	return copy_to_user(to, from, min(ksize, usize)) ? -EFAULT : 0;
}

/* ---- info --------------------------------------------------------------- */

static int ioctl_info(void __user *arg, size_t usize)
{
	struct upm_ioc_info info;
	int err = copy_struct_from_user(&info, sizeof(info), arg, usize);

	if (err)
		return err;
	memset(&info, 0, sizeof(info));
	info.abi_version = UPM_ABI_VERSION;
	info.page_size = PAGE_SIZE;
	info.features = UPM_FEATURE_REMOTE | UPM_FEATURE_FILE_PAGES |
			UPM_FEATURE_DOMAINS | UPM_FEATURE_DRY_RUN |
			UPM_FEATURE_UNMERGE | UPM_FEATURE_NUMA;
	info.advise_flags = ADVISE_FLAGS;
	info.batch_pages = READ_ONCE(upm_knobs.batch_pages);
	info.enabled = READ_ONCE(upm_knobs.enabled);
	info.skip_reasons = UPM_SKIP_NR;
	strscpy(info.version, UPM_VERSION, sizeof(info.version));
	return result_copy(arg, &info, sizeof(info), usize);
}

/* ---- advise ------------------------------------------------------------- */

static struct task_struct *task_get(pid_t nr)
{
	struct task_struct *task;
	struct pid *pid;

	if (!nr)
		return get_task_struct(current);
	pid = nr > 0 ? find_get_pid(nr) : NULL;
	task = get_pid_task(pid, PIDTYPE_PID);
	put_pid(pid);
	return task;
}

static struct upm_domain *domain_get(struct task_struct *task, int fd)
{
	return fd < 0 ? upm_domain_of_task(task) : upm_domain_of_fd(fd);
}

/*
 * Address space and domain of call->task, with references, if the caller may
 * work on it. The target's exec_update_lock keeps the two of one program: an
 * exec between them could change the rights that were checked.
 */
static int target_open(struct upm_call *call, int domain_fd)
{
	struct rw_semaphore *lock = &call->task->signal->exec_update_lock;
	int err = 0;

	if (down_read_killable(lock))
		return -EINTR;
	call->mm = get_task_mm(call->task);
	if (!call->mm) {
		err = -ESRCH;
		goto out_lock;
	}
	if (call->mm != current->mm &&
	    !upm_task_capable(call->task, call->mm, CAP_SYS_PTRACE)) {
		err = -EPERM;
		goto err_mm;
	}
	call->dom = domain_get(call->task, domain_fd);
	if (IS_ERR(call->dom)) {
		err = PTR_ERR(call->dom);
		goto err_mm;
	}
	goto out_lock;

err_mm:
	mmput(call->mm);
out_lock:
	up_read(lock);
	return err;
}

static void target_close(struct upm_call *call)
{
	upm_domain_put(call->dom);
	mmput(call->mm);
}

static int range_check(const struct upm_ioc_advise *a,
		       const struct mm_struct *mm)
{
	u64 end;

	if ((a->addr | a->len) & ~PAGE_MASK)
		return -EINVAL;
	if (check_add_overflow((u64)a->addr, (u64)a->len, &end))
		return -EINVAL;
	return end > mm->task_size ? -EINVAL : 0;
}

/* Is every page of the range mapped? As madvise(2), before anything changes. */
static int range_check_mapped(struct mm_struct *mm, unsigned long addr,
			      unsigned long end)
{
	struct vm_area_struct *vma;
	int err = 0;

	if (mmap_read_lock_killable(mm))
		return -EINTR;
	while (addr < end) {
		vma = find_vma(mm, addr);
		if (!vma || vma->vm_start > addr) {
			err = -ENOMEM;
			break;
		}
		addr = vma->vm_end;
	}
	mmap_read_unlock(mm);
	return err;
}

/* Counts for a caller whom hits shall tell nothing of other processes. */
static void counts_blur(struct upm_ioc_counts *counts)
{
	counts->merged += counts->inserted;
	counts->inserted = 0;
}

static int advise_run(struct upm_ioc_advise *a, struct upm_call *call)
{
	u64 start = ktime_get_ns();
	int err;

	if (a->flags & UPM_ADVISE_UNMERGE)
		err = upm_unmerge(call);
	else if (a->flags & UPM_ADVISE_DRY_RUN)
		err = upm_predict(call);
	else
		err = upm_merge(call);

	call->counts.next = call->addr;
	call->counts.nanoseconds = ktime_get_ns() - start;
	trace_upm_call(task_tgid_nr(call->task), a->flags, a->addr, a->len,
		       &call->counts, err);
	return err;
}

static void totals_add(const struct upm_ioc_counts *c, u32 flags)
{
	unsigned int i;

	atomic64_inc(&upm_totals.calls);
	if (flags)
		return;		/* a dry run did nothing; unmerge counts itself */
	atomic64_add(c->merged, &upm_totals.merged);
	atomic64_add(c->inserted, &upm_totals.inserted);
	atomic64_add(c->zero, &upm_totals.zero);
	for (i = 0; i < UPM_SKIP_NR; i++)
		if (c->skipped[i])
			atomic64_add(c->skipped[i], &upm_totals.skipped[i]);
}

static int advise_check(const struct upm_ioc_advise *a)
{
	if (a->flags & ~ADVISE_FLAGS)
		return -EINVAL;
	if ((a->flags & ADVISE_FLAGS) == ADVISE_FLAGS)
		return -EINVAL;
	if (a->reserved0 || a->reserved1[0] || a->reserved1[1])
		return -EINVAL;
	if (a->domain_fd < -1)
		return -EBADF;
	/* Unmerging works always: it is the way back. */
	if (!(a->flags & UPM_ADVISE_UNMERGE) && !READ_ONCE(upm_knobs.enabled))
		return -EOPNOTSUPP;
	return 0;
}

static int ioctl_advise(void __user *arg, size_t usize)
{
	struct upm_ioc_advise a;
	struct upm_call call = {};
	int err;

	err = copy_struct_from_user(&a, sizeof(a), arg, usize);
	if (err)
		return err;
	err = advise_check(&a);
	if (err)
		return err;
	call.task = task_get(a.pid);
	if (!call.task)
		return -ESRCH;
	err = target_open(&call, a.domain_fd);
	if (err)
		goto out_task;
	err = range_check(&a, call.mm);
	if (!err)
		err = range_check_mapped(call.mm, a.addr, a.addr + a.len);
	if (err)
		goto out_target;
	call.addr = a.addr;
	call.end = a.addr + a.len;
	err = advise_run(&a, &call);
	totals_add(&call.counts, a.flags);

	if (READ_ONCE(upm_knobs.hardened) && !capable(CAP_SYS_ADMIN))
		counts_blur(&call.counts);
	a.counts = call.counts;
	if (result_copy(arg, &a, sizeof(a), usize))
		err = -EFAULT;
out_target:
	target_close(&call);
out_task:
	put_task_struct(call.task);
	return err;
}

/* ---- domains and statistics --------------------------------------------- */

static int ioctl_domain_open(void __user *arg, size_t usize)
{
	struct upm_ioc_domain d;
	struct upm_domain *dom;
	struct file *file;
	int err = copy_struct_from_user(&d, sizeof(d), arg, usize);

	if (err)
		return err;
	if (d.flags || d.reserved[0] || d.reserved[1])
		return -EINVAL;
	dom = upm_domain_of_name(d.key);
	memzero_explicit(d.key, sizeof(d.key));
	if (IS_ERR(dom))
		return PTR_ERR(dom);
	file = upm_domain_file(dom);
	upm_domain_put(dom);
	if (IS_ERR(file))
		return PTR_ERR(file);

	/* The caller sees the number before the descriptor is there. */
	d.fd = get_unused_fd_flags(O_CLOEXEC);
	if (d.fd < 0) {
		err = d.fd;
		goto err_file;
	}
	err = put_user(d.fd, (s32 __user *)(arg + offsetof(typeof(d), fd)));
	if (err)
		goto err_fd;
	fd_install(d.fd, file);
	return 0;

err_fd:
	put_unused_fd(d.fd);
err_file:
	fput(file);
	return err;
}

static int ioctl_stats(void __user *arg, size_t usize)
{
	struct upm_census census = {};
	struct upm_domain *dom;
	struct upm_ioc_stats s;
	int err = copy_struct_from_user(&s, sizeof(s), arg, usize);

	if (err)
		return err;
	if (s.flags || s.domain_fd < -1)
		return s.flags ? -EINVAL : -EBADF;
	dom = domain_get(current, s.domain_fd);
	if (IS_ERR(dom))
		return PTR_ERR(dom);
	err = mutex_lock_killable(&dom->walk_mutex);
	if (!err) {
		upm_index_walk(dom, UPM_WALK_COUNT, ULONG_MAX, true, &census);
		mutex_unlock(&dom->walk_mutex);
		s.pages_shared = census.shared;
		s.pages_sharing = census.sharing;
		s.pages_unused = census.unused;
		s.max_pages = min(READ_ONCE(upm_knobs.max_pages),
				  READ_ONCE(upm_knobs.domain_max_pages));
		s.metadata_bytes = upm_index_metadata(dom);
	}
	upm_domain_put(dom);
	if (err)
		return -EINTR;
	return result_copy(arg, &s, sizeof(s), usize);
}

/* ---- the device --------------------------------------------------------- */

static long upm_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	void __user *user = (void __user *)arg;
	size_t usize = _IOC_SIZE(cmd);

	if (_IOC_TYPE(cmd) != UPM_IOC_MAGIC ||
	    _IOC_DIR(cmd) != (_IOC_READ | _IOC_WRITE))
		return -ENOTTY;
	switch (_IOC_NR(cmd)) {
	case _IOC_NR(UPM_IOC_INFO):
		return ioctl_info(user, usize);
	case _IOC_NR(UPM_IOC_ADVISE):
		return ioctl_advise(user, usize);
	case _IOC_NR(UPM_IOC_DOMAIN_OPEN):
		return ioctl_domain_open(user, usize);
	case _IOC_NR(UPM_IOC_STATS):
		return ioctl_stats(user, usize);
	}
	return -ENOTTY;
}

/* The process that used it is gone, or soon will be. */
static int upm_release(struct inode *inode, struct file *file)
{
	upm_sweep_kick();
	return 0;
}

static const struct file_operations upm_fops = {
	.owner = THIS_MODULE,
	.release = upm_release,
	.unlocked_ioctl = upm_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice upm_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "upm",
	.fops = &upm_fops,
	.mode = 0666,
};

int upm_device_init(void)
{
	return misc_register(&upm_misc);
}

void upm_device_exit(void)
{
	misc_deregister(&upm_misc);
}
