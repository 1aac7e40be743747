/* SPDX-License-Identifier: MIT */
#ifndef UPM_PRELOAD_ANY_LIBC_H
#define UPM_PRELOAD_ANY_LIBC_H

#ifdef __cplusplus
extern "C" {
#endif

/*
 * Returns 1 if this is a glibc, and all that the hook needs to work is loaded: before
 * glibc 2.34, a program without threads lacks some of it. Returns 0 in a program with a sanitizer,
 * too.
 */
__attribute__((visibility("hidden"))) int upm_hook_libc_suffices(void);

/* pthread_setattr_default_np(3), ENOSYS where there is none. */
__attribute__((visibility("hidden"))) int upm_hook_set_thread_default(const void *attributes);

#ifdef __cplusplus
}
#endif

#endif /* UPM_PRELOAD_ANY_LIBC_H */
