// SPDX-License-Identifier: MIT
//
// A small program that anywhere_test.py builds for several libraries and sanitizers, and
// runs under the hook. Exits 0 if it got to its end.
//
//   anywhere plain [wait]       uses its memory, and is idle for a moment, or until its
//                               input ends
//   anywhere deepbind LIBRARY   frees the blocks of a library that binds to libc first
//   anywhere sandbox WHEN HOW   locks itself in, WHEN: before or after it has its memory;
//                               HOW: one, or all threads
//   anywhere without COMMAND... runs a command that is killed for userfaultfd(2)
#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#ifndef RTLD_DEEPBIND
#define RTLD_DEEPBIND 0 /* musl */
#endif

enum { SIZE = 8 << 20 };

static void idle(int ms) {
    const struct timespec time = {ms / 1000, ms % 1000 * 1000000L};
    nanosleep(&time, NULL);
}

static char *fill(char *memory) {
    for (int at = 0; at < SIZE; at += 8)
        *(long *)(memory + at) = at * 0x9e3779b97f4aL + 1;
    return memory;
}

static int plain(int wait) {
    char *memory = fill(malloc(SIZE));
    if (wait) {
        puts("ready");
        fflush(stdout);
        while (getchar() != EOF)
            ;
    } else {
        idle(300);
    }
    memory = realloc(memory, 2 * SIZE);
    memory[2 * SIZE - 1] = 1;
    free(memory);
    void *map = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(map, SIZE);
    return 0;
}

static int deepbind(const char *name) {
    void *library = dlopen(name, RTLD_NOW | RTLD_DEEPBIND);
    if (library == NULL) {
        fprintf(stderr, "%s\n", dlerror());
        return 2;
    }
    void *(*get)(size_t) = (void *(*)(size_t))dlsym(library, "library_get");
    void (*give)(void *) = (void (*)(void *))dlsym(library, "library_give");
    give(fill(malloc(SIZE)));
    free(fill(get(SIZE)));
    return 0;
}

#define ALLOW(call)                                                                                \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (call), 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static int lock_in(struct sock_filter *filter, size_t count, unsigned flags) {
    struct sock_fprog program = {(unsigned short)count, filter};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

static int sandbox(int before, unsigned flags) {
    struct sock_filter list[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        ALLOW(SYS_read), ALLOW(SYS_write), ALLOW(SYS_brk), ALLOW(SYS_mmap), ALLOW(SYS_munmap),
        ALLOW(SYS_mremap), ALLOW(SYS_getrandom), ALLOW(SYS_clock_nanosleep), ALLOW(SYS_nanosleep), ALLOW(SYS_exit_group),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)};
    char *memory = NULL;
    if (before) {
        memory = fill(malloc(SIZE));
        idle(25); /* the hook is at work */
    }
    if (lock_in(list, COUNT(list), flags) != 0)
        return 2;
    if (!before)
        memory = fill(malloc(SIZE));
    for (int i = 0; i < 10; ++i)
        idle(50);
    memory = realloc(memory, 2 * SIZE);
    free(memory);
    free(fill(malloc(SIZE)));
    return 0;
}

static int without(char **command) {
    struct sock_filter list[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    if (lock_in(list, COUNT(list), 0) != 0)
        return 2;
    execv(command[0], command);
    return 2;
}

int main(int argc, char **argv) {
    if (argc < 2)
        return 2;
    if (strcmp(argv[1], "plain") == 0)
        return plain(argc == 3);
    if (strcmp(argv[1], "deepbind") == 0 && argc == 3)
        return deepbind(argv[2]);
    if (strcmp(argv[1], "sandbox") == 0 && argc == 4)
        return sandbox(strcmp(argv[2], "before") == 0,
                       strcmp(argv[3], "all") == 0 ? SECCOMP_FILTER_FLAG_TSYNC : 0);
    if (strcmp(argv[1], "without") == 0 && argc > 2)
        return without(argv + 2);
    return 2;
}
