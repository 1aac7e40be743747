// SPDX-License-Identifier: MIT
//
// A small program that layout_test.py builds, and runs under `upm run --layout`.
//
//   layout places              prints where the dynamic linker, libc and the heap are
//   layout stacks              prints the soft and the hard limit of the stack, the size of
//                              stacks that threads get by default, and that of a thread's
//   layout deny COMMAND...     runs a command that may not change its personality
//   layout mark                prints what glibc marks freed memory with
//   layout twice               frees a block twice, which glibc notices
//   layout maps                prints a line when it has used some memory, and waits
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

static int places(void) {
    printf("%lx %lx %lx\n", getauxval(AT_BASE), (unsigned long)(void *)&getppid,
           (unsigned long)sbrk(0));
    return 0;
}

static int mark(void) {
    char *block = malloc(24);
    unsigned long found[2];
    memset(block, 0, 24);
    free(block);
    __asm__ volatile("" : "+r"(block));
    memcpy(found, block, sizeof(found));
    printf("%lx\n", found[1]);
    return 0;
}

static int twice(void) {
    char *block = malloc(24);
    free(block);
    __asm__ volatile("" : "+r"(block));
    free(block);
    return 0;
}

static void *measure(void *size) {
    pthread_attr_t own;
    pthread_getattr_np(pthread_self(), &own);
    pthread_attr_getstacksize(&own, size);
    pthread_attr_destroy(&own);
    return NULL;
}

static int stacks(void) {
    struct rlimit limit;
    pthread_attr_t attributes;
    pthread_t thread;
    size_t by_default = 0, of_thread = 0;
    if (getrlimit(RLIMIT_STACK, &limit) != 0 || pthread_getattr_default_np(&attributes) != 0 ||
        pthread_attr_getstacksize(&attributes, &by_default) != 0 ||
        pthread_create(&thread, NULL, measure, &of_thread) != 0)
        return 1;
    pthread_join(thread, NULL);
    printf("%lu %lu %zu %zu\n", limit.rlim_cur, limit.rlim_max, by_default, of_thread);
    return 0;
}

/* As the usual filter of containers: to ask is allowed, and to go back to 0. */
static int deny(char **command) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_personality, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0xffffffff, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof(code) / sizeof(*code), code};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        return 1;
    execv(command[0], command);
    return 1;
}

static void *use_memory(void *unused) {
    for (int size = 16; size < 1 << 22; size *= 2)
        memset(malloc(size), 1, size);
    return unused;
}

static int maps(void) {
    for (int i = 0; i < 4; ++i) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, use_memory, NULL) != 0)
            return 1;
        pthread_join(thread, NULL);
    }
    use_memory(NULL);
    puts("ready");
    fflush(stdout);
    return getchar() == EOF ? 0 : 1;
}

int main(int count, char **words) {
    const char *what = count > 1 ? words[1] : "";
    if (strcmp(what, "places") == 0)
        return places();
    if (strcmp(what, "stacks") == 0)
        return stacks();
    if (strcmp(what, "mark") == 0)
        return mark();
    if (strcmp(what, "twice") == 0)
        return twice();
    if (strcmp(what, "deny") == 0 && count > 2)
        return deny(words + 2);
    return strcmp(what, "maps") == 0 ? maps() : 2;
}
