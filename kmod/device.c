// SPDX-License-Identifier: GPL-2.0-only
/*
 * /dev/upm: decodes and checks the calls of uapi/upm.h, and nothing else.
 *
 * Any user may open it: a call works on the caller's own memory, which stays
 * private by copy-on-write, and merges inside the caller's domain. Memory of
 * others needs CAP_SYS_PTRACE in the user namespace of their address space.
 */
#include <linux/anon_inodes.h>
#include <linux/capability.h>
#include <linux/file.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/nospec.h>
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

union ucmd_arg {
	struct upm_ioc_info info;
	struct upm_ioc_advise advise;
	struct upm_ioc_domain domain;
	struct upm_ioc_stats stats;
	struct upm_ioc_load load;
};

/* One call: where the caller's structure is, and a copy of it. */
struct ucmd {
	struct file *file;	/* /dev/upm; see domain_get() */
	void __user *user;
	u32 usize;		/* bytes that the caller's structure has */
	union ucmd_arg arg;
};

/* Copy back the first @size bytes, as far as the caller's structure has room. */
static int ucmd_respond(const struct ucmd *c, size_t size)
{
	return copy_to_user(c->user, &c->arg, min_t(size_t, size, c->usize)) ?
		       -EFAULT : 0;
}

/* ---- domain descriptors --------------------------------------------------- */

static int domain_file_release(struct inode *inode, struct file *file)
{
	upm_sweep_kick(file->private_data);
	return 0;
}

static const struct file_operations domain_fops = {
	.owner = THIS_MODULE,
	.release = domain_file_release,
};

/* An open file that holds @dom with a reference of its own, or ERR_PTR. */
static struct file *domain_file(struct upm_domain *dom)
{
	struct file *file;

	upm_domain_get(dom);
	file = anon_inode_getfile("[upm-domain]", &domain_fops, dom, O_RDONLY);
	if (IS_ERR(file))
		upm_domain_put(dom);
	return file;
}

/* The domain of a descriptor, with a reference, or ERR_PTR(-EBADF). */
static struct upm_domain *domain_of_fd(int fd)
{
	struct upm_domain *dom = ERR_PTR(-EBADF);
	struct file *file = fget(fd);

	if (!file)
		return dom;
	if (file->f_op == &domain_fops) {
		dom = file->private_data;
		upm_domain_get(dom);
	}
	fput(file);
	return dom;
}

/*
 * The domain of a call, with a reference, or ERR_PTR. The file remembers its id, not
 * a reference: an idle file shall not keep a domain.
 */
static struct upm_domain *domain_get(struct ucmd *c, struct task_struct *task,
				     int fd)
{
	struct upm_domain *dom = fd < 0 ? upm_domain_of_task(task) :
					  domain_of_fd(fd);

	if (!IS_ERR(dom))
		WRITE_ONCE(c->file->private_data,
			   (void *)((uintptr_t)dom->id + 1));
	return dom;
}

static int ioctl_domain_open(struct ucmd *c)
{
	struct upm_ioc_domain *d = &c->arg.domain;
	struct upm_domain *dom;
	struct file *file;
	int err;

	if (d->flags || d->reserved[0] || d->reserved[1])
		return -EINVAL;
	dom = upm_domain_of_name(d->key);
	if (IS_ERR(dom))
		return PTR_ERR(dom);
	file = domain_file(dom);
	upm_domain_put(dom);
	if (IS_ERR(file))
		return PTR_ERR(file);

	/* The caller sees the number before the descriptor is there. */
	d->fd = get_unused_fd_flags(O_CLOEXEC);
	if (d->fd < 0) {
		err = d->fd;
		goto err_file;
	}
	err = ucmd_respond(c, offsetofend(struct upm_ioc_domain, fd));
	if (err)
		goto err_fd;
	fd_install(d->fd, file);
	return 0;

err_fd:
	put_unused_fd(d->fd);
err_file:
	fput(file);
	return err;
}

/* ---- info --------------------------------------------------------------- */

static int ioctl_info(struct ucmd *c)
{
	struct upm_ioc_info *info = &c->arg.info;

	if (info->reserved0 || info->reserved1[0] || info->reserved1[1])
		return -EINVAL;
	memset(info, 0, sizeof(*info));
	info->abi_version = UPM_ABI_VERSION;
	info->page_size = PAGE_SIZE;
	info->features = UPM_FEATURE_REMOTE | UPM_FEATURE_FILE_PAGES |
			 UPM_FEATURE_DOMAINS | UPM_FEATURE_DRY_RUN |
			 UPM_FEATURE_UNMERGE | UPM_FEATURE_NUMA |
			 UPM_FEATURE_LOAD;
	info->advise_flags = ADVISE_FLAGS;
	info->batch_pages = READ_ONCE(upm_knobs.batch_pages);
	info->enabled = READ_ONCE(upm_knobs.enabled);
	info->skip_reasons = UPM_SKIP_NR;
	strscpy(info->version, UPM_VERSION, sizeof(info->version));
	return ucmd_respond(c, sizeof(*info));
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

/*
 * Address space and domain of call->task, with references, if the caller may
 * work on it. The target's exec_update_lock keeps the two of one program: an
 * exec between them could change the rights that were checked.
 */
static int target_open(struct ucmd *c, struct upm_call *call)
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
	call->dom = domain_get(c, call->task, c->arg.advise.domain_fd);
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

static int advise_run(struct upm_ioc_advise *a, struct upm_call *call)
{
	u64 start = ktime_get_ns();
	int err;

	if (a->flags & UPM_ADVISE_UNMERGE)
		err = upm_unmerge(call);
	else if (a->flags & UPM_ADVISE_DRY_RUN)
		err = upm_dry_run(call);
	else
		err = upm_merge(call);
	WRITE_ONCE(call->dom->stirred, true);

	call->counts.next = call->addr;
	call->counts.nanoseconds = ktime_get_ns() - start;
	trace_upm_call(task_tgid_nr(call->task), a->flags, a->addr, a->len,
		       &call->counts, err);
	return err;
}

static void totals_add_pages(const struct upm_ioc_counts *c)
{
	unsigned int i;

	atomic64_add(c->merged, &upm_totals.merged);
	atomic64_add(c->inserted, &upm_totals.inserted);
	atomic64_add(c->zero, &upm_totals.zero);
	for (i = 0; i < UPM_SKIP_NR; i++)
		if (c->skipped[i])
			atomic64_add(c->skipped[i], &upm_totals.skipped[i]);
}

static void totals_add(const struct upm_ioc_counts *c, u32 flags)
{
	atomic64_inc(&upm_totals.calls);
	if (!flags)		/* a dry run did nothing; unmerge counts itself */
		totals_add_pages(c);
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

static int ioctl_advise(struct ucmd *c)
{
	struct upm_ioc_advise *a = &c->arg.advise;
	struct upm_call call = {};
	int err = advise_check(a);

	if (err)
		return err;
	call.task = task_get(a->pid);
	if (!call.task)
		return -ESRCH;
	err = target_open(c, &call);
	if (err)
		goto out_task;
	err = range_check(a, call.mm);
	if (!err)
		err = range_check_mapped(call.mm, a->addr, a->addr + a->len);
	if (err)
		goto out_target;
	call.addr = a->addr;
	call.end = a->addr + a->len;
	err = advise_run(a, &call);
	totals_add(&call.counts, a->flags);

	a->counts = call.counts;
	if (ucmd_respond(c, sizeof(*a)))
		err = -EFAULT;
out_target:
	target_close(&call);
out_task:
	put_task_struct(call.task);
	return err;
}

/* ---- load --------------------------------------------------------------- */

static int load_check(const struct upm_ioc_load *l)
{
	u64 end;

	if (l->flags || l->reserved0 || l->reserved1[0] || l->reserved1[1] ||
	    l->reserved1[2])
		return -EINVAL;
	if (l->domain_fd < -1)
		return -EBADF;
	if (l->offset > LLONG_MAX || l->len > LLONG_MAX - l->offset)
		return -EINVAL;
	if (check_add_overflow((u64)l->addr, (u64)l->len, &end) ||
	    !access_ok((void __user *)(uintptr_t)l->addr, l->len))
		return -EFAULT;
	return READ_ONCE(upm_knobs.enabled) ? 0 : -EOPNOTSUPP;
}

/* A file that can be loaded, with a reference, or ERR_PTR. */
static struct file *load_file(int fd)
{
	struct file *file = fget(fd);
	int err;

	if (!file)
		return ERR_PTR(-EBADF);
	if (file->f_mode & FMODE_READ &&
	    S_ISREG(file_inode(file)->i_mode) && i_size_read(file_inode(file)) &&
	    file->f_mode & FMODE_PREAD && file->f_op->read_iter &&
	    !(file->f_flags & O_DIRECT))
		return file;
	err = file->f_mode & FMODE_READ ? -EOPNOTSUPP : -EBADF;
	fput(file);
	return ERR_PTR(err);
}

static int load_run(struct ucmd *c, struct file *file)
{
	struct upm_ioc_load *l = &c->arg.load;
	struct upm_call call = {
		.mm = current->mm,
		.task = current,
		.addr = l->addr,
		.end = l->addr + l->len,
	};
	u64 start = ktime_get_ns();
	int err;

	call.dom = domain_get(c, current, l->domain_fd);
	if (IS_ERR(call.dom))
		return PTR_ERR(call.dom);
	err = upm_load(&call, file, l);
	WRITE_ONCE(call.dom->stirred, true);
	call.counts.next = call.addr;
	call.counts.nanoseconds = ktime_get_ns() - start;
	l->counts = call.counts;
	atomic64_inc(&upm_totals.loads);
	atomic64_add(l->done, &upm_totals.loaded_bytes);
	atomic64_add(l->copied, &upm_totals.copied_bytes);
	totals_add_pages(&call.counts);
	trace_upm_load(task_tgid_nr(current), l, err);
	upm_domain_put(call.dom);
	return err;
}

static int ioctl_load(struct ucmd *c)
{
	struct upm_ioc_load *l = &c->arg.load;
	struct file *file;
	int err = load_check(l);

	if (err)
		return err;
	file = load_file(l->fd);
	if (IS_ERR(file))
		return PTR_ERR(file);
	l->done = 0;
	l->copied = 0;
	memset(&l->counts, 0, sizeof(l->counts));
	err = load_run(c, file);
	fput(file);
	if (ucmd_respond(c, sizeof(*l)))
		err = -EFAULT;
	return err;
}

/* ---- statistics --------------------------------------------------------- */

static int ioctl_stats(struct ucmd *c)
{
	struct upm_ioc_stats *s = &c->arg.stats;
	struct upm_census census = {};
	struct upm_domain *dom;
	int err;

	if (s->flags || s->reserved[0] || s->reserved[1] || s->reserved[2])
		return -EINVAL;
	if (s->domain_fd < -1)
		return -EBADF;
	dom = domain_get(c, current, s->domain_fd);
	if (IS_ERR(dom))
		return PTR_ERR(dom);
	err = upm_domain_census(dom, &census);
	s->pages_shared = census.shared;
	s->pages_sharing = census.sharing;
	s->pages_unused = census.unused;
	s->max_pages = min(READ_ONCE(upm_knobs.max_pages),
			   READ_ONCE(upm_knobs.domain_max_pages));
	s->metadata_bytes = upm_index_metadata(dom);
	upm_domain_put(dom);
	return err ? err : ucmd_respond(c, sizeof(*s));
}

/* ---- the device --------------------------------------------------------- */

struct ioctl_op {
	unsigned int cmd;
	unsigned int size;
	unsigned int min_size;	/* that of the first version, to its last input */
	int (*run)(struct ucmd *c);
};

#define IOCTL_OP(_cmd, _run, _struct, _last)				\
	[_IOC_NR(_cmd)] = {						\
		.cmd = _cmd,						\
		.size = sizeof(struct _struct),				\
		.min_size = offsetofend(struct _struct, _last),		\
		.run = _run,						\
	}

static const struct ioctl_op ioctl_ops[] = {
	IOCTL_OP(UPM_IOC_INFO, ioctl_info, upm_ioc_info, reserved1),
	IOCTL_OP(UPM_IOC_ADVISE, ioctl_advise, upm_ioc_advise, reserved1),
	IOCTL_OP(UPM_IOC_DOMAIN_OPEN, ioctl_domain_open, upm_ioc_domain,
		 reserved),
	IOCTL_OP(UPM_IOC_STATS, ioctl_stats, upm_ioc_stats, reserved),
	IOCTL_OP(UPM_IOC_LOAD, ioctl_load, upm_ioc_load, copied),
};

/* The size in a number is the caller's; all else must be as in the table. */
static const struct ioctl_op *ioctl_op_of(unsigned int cmd)
{
	const unsigned int size = _IOC(0, 0, 0, _IOC_SIZEMASK);
	const struct ioctl_op *op;

	if (_IOC_NR(cmd) >= ARRAY_SIZE(ioctl_ops))
		return NULL;
	op = &ioctl_ops[array_index_nospec(_IOC_NR(cmd),
					   ARRAY_SIZE(ioctl_ops))];
	return (cmd ^ op->cmd) & ~size ? NULL : op;
}

static long upm_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	const struct ioctl_op *op = ioctl_op_of(cmd);
	struct ucmd c = {
		.file = file,
		.user = (void __user *)arg,
		.usize = _IOC_SIZE(cmd),
	};
	int err;

	if (!op)
		return -ENOTTY;
	if (c.usize < op->min_size)
		return -EINVAL;
	err = copy_struct_from_user(&c.arg, op->size, c.user, c.usize);
	if (!err)
		err = op->run(&c);
	memzero_explicit(&c.arg, op->size); /* the key of a domain */
	return err;
}

static int upm_open(struct inode *inode, struct file *file)
{
	file->private_data = NULL;	/* misc_open() set it */
	return 0;
}

/* The process that used it is gone, or soon will be. */
static int upm_release(struct inode *inode, struct file *file)
{
	uintptr_t last = (uintptr_t)file->private_data;
	struct upm_domain *dom = last ? upm_domain_of_id(last - 1) : NULL;

	if (dom)
		upm_sweep_kick(dom);
	return 0;
}

static const struct file_operations upm_fops = {
	.owner = THIS_MODULE,
	.open = upm_open,
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
