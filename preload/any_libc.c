// SPDX-License-Identifier: MIT
//
// What lets the hook load into every program: LD_PRELOAD reaches all children of a
// program, in containers with an older glibc or with musl, and a library that cannot be
// loaded there ends them (exit status 127).
//
//   The hook names no library that it needs, and no version of a symbol: so the loader
//   binds what it finds.
//   Functions that came after glibc 2.17 are here, by their system calls.
//   Functions that lie in libdl or libpthread before glibc 2.34, and need not be there,
//   are asked for through weak references (linker option --wrap).
//   What remains exists in glibc 2.17 and in musl: any_libc.syms is the list, and `make
//   lint` compares.
//
// Where something is missing, the hook stays out (any_libc.h). tests/preload/
// anywhere_test.py loads it into programs of Debian 11, of musl, and of others.
// The names are those of libc, of the linker and of sanitizers.
// NOLINTBEGIN(readability-identifier-naming)
#define _GNU_SOURCE 1
#include "preload/any_libc.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HIDDEN __attribute__((visibility("hidden")))
#define WEAK __attribute__((weak))

// The kernel's struct stat is that of glibc on 64-bit systems.
struct stat;
int fstat(int fd, struct stat *status);
int lstat(const char *path, struct stat *status);
int stat(const char *path, struct stat *status);

HIDDEN int fstat(int fd, struct stat *status) {
    return (int)syscall(SYS_newfstatat, fd, "", status, AT_EMPTY_PATH);
}

HIDDEN int lstat(const char *path, struct stat *status) {
    return (int)syscall(SYS_newfstatat, AT_FDCWD, path, status, AT_SYMLINK_NOFOLLOW);
}

HIDDEN int stat(const char *path, struct stat *status) {
    return (int)syscall(SYS_newfstatat, AT_FDCWD, path, status, 0);
}

HIDDEN int gettid(void) {
    return (int)syscall(SYS_gettid);
}

int memfd_create(const char *name, unsigned flags);
HIDDEN int memfd_create(const char *name, unsigned flags) {
    return (int)syscall(SYS_memfd_create, name, flags);
}

// glibc's own signals stay as they are: it waits for threads to handle them.
int pthread_sigmask(int how, const uint64_t *set, uint64_t *before);
HIDDEN int pthread_sigmask(int how, const uint64_t *set, uint64_t *before) {
    const uint64_t glibcs = 3UL << 31; // 32 and 33
    uint64_t wanted = set != NULL ? *set & ~glibcs : 0;
    const int saved = errno;
    const long ret = syscall(SYS_rt_sigprocmask, how, set != NULL ? &wanted : NULL, before, 8);
    const int error = ret == 0 ? 0 : errno;
    errno = saved;
    return error;
}

// Of the calling thread, which is the only one that the library names.
int pthread_setname_np(unsigned long thread, const char *name);
HIDDEN int pthread_setname_np(unsigned long thread, const char *name) {
    const int set_name = 15; // PR_SET_NAME
    (void)thread;
    return (int)syscall(SYS_prctl, set_name, name, 0, 0, 0);
}

// In glibc, each library has a copy of its own of this one.
extern void *__dso_handle HIDDEN;
extern int __register_atfork(void (*before)(void), void (*parent)(void), void (*child)(void),
                             void *library) WEAK;
int pthread_atfork(void (*before)(void), void (*parent)(void), void (*child)(void));
HIDDEN int pthread_atfork(void (*before)(void), void (*parent)(void), void (*child)(void)) {
    return __register_atfork != NULL ? __register_atfork(before, parent, child, &__dso_handle)
                                     : ENOSYS;
}

// What the C++ library asks for, and never needs here: nobody throws, and nobody wants
// random numbers. It takes programs for multi-threaded.
HIDDEN char __libc_single_threaded = 0;
HIDDEN int _dl_find_object(void *address, void *result) {
    (void)address;
    (void)result;
    return -1;
}
HIDDEN uint32_t arc4random(void) {
    return 0;
}
HIDDEN int getentropy(void *buffer, size_t size) {
    (void)buffer;
    (void)size;
    errno = ENOSYS;
    return -1;
}

#define WRAP(type, name, parameters, arguments, missing)                                           \
    extern type __real_##name parameters WEAK;                                                     \
    extern type __wrap_##name parameters;                                                          \
    HIDDEN type __wrap_##name parameters {                                                         \
        return __real_##name != NULL ? __real_##name arguments : (missing);                        \
    }

WRAP(int, dladdr, (const void *address, void *info), (address, info), 0)
WRAP(void *, dlopen, (const char *name, int flags), (name, flags), NULL)
WRAP(int, pthread_create, (void *thread, const void *attributes, void *run, void *argument),
     (thread, attributes, run, argument), ENOSYS)
WRAP(int, pthread_attr_setstacksize, (void *attributes, size_t size), (attributes, size), ENOSYS)
// Without libpthread nobody is cancelled.
extern void __real_pthread_testcancel(void) WEAK;
extern void __wrap_pthread_testcancel(void);
HIDDEN void __wrap_pthread_testcancel(void) {
    if (__real_pthread_testcancel != NULL)
        __real_pthread_testcancel();
}

// From glibc 2.18 on.
extern int pthread_setattr_default_np(const void *attributes) WEAK;
int upm_hook_set_thread_default(const void *attributes) {
    return pthread_setattr_default_np != NULL ? pthread_setattr_default_np(attributes) : ENOSYS;
}

WRAP(int, pthread_once, (void *once, void (*run)(void)), (once, run), ENOSYS)
WRAP(int, __pthread_key_create, (void *key, void (*end)(void *)), (key, end), ENOSYS)
WRAP(int, mallopt, (int name, int value), (name, value), 0)

// Where libdl is not loaded: what glibc uses inside of itself. It knows nothing of what is
// next in line, but another allocator would have brought libdl along.
extern void *__real_dlsym(void *handle, const char *name) WEAK;
extern void *__libc_dlopen_mode(const char *name, int mode) WEAK;
extern void *__libc_dlsym(void *handle, const char *name) WEAK;
extern void *__wrap_dlsym(void *handle, const char *name);
HIDDEN void *__wrap_dlsym(void *handle, const char *name) {
    if (__real_dlsym != NULL)
        return __real_dlsym(handle, name);
    if (__libc_dlopen_mode == NULL || __libc_dlsym == NULL)
        return NULL;
    const int lazy = 1;
    void *const libc = __libc_dlopen_mode("libc.so.6", (int)0x80000000U | lazy);
    return libc != NULL ? __libc_dlsym(libc, name) : NULL;
}

extern const char *gnu_get_libc_version(void) WEAK;

// Sanitizers have allocators of their own, which must see every call.
extern void __asan_init(void) WEAK;
extern void __hwasan_init(void) WEAK;
extern void __lsan_init(void) WEAK;
extern void __msan_init(void) WEAK;
extern void __tsan_init(void) WEAK;

int upm_hook_libc_suffices(void) {
    return gnu_get_libc_version != NULL && __register_atfork != NULL && __real_dlsym != NULL &&
           __real_dladdr != NULL && __real_pthread_create != NULL &&
           __real_pthread_attr_setstacksize != NULL && __asan_init == NULL &&
           __hwasan_init == NULL && __lsan_init == NULL && __msan_init == NULL &&
           __tsan_init == NULL;
}

// NOLINTEND(readability-identifier-naming)
