// SPDX-License-Identifier: MIT
//
// Two functions that must not have a frame of their own between the program and libc.
//
// syscall(2): a program that locks itself into a small list of system calls (seccomp) must
// not be killed for those of the hook, which has to know before (sandbox.hpp). Programs
// also make new processes by it, which would return through the frame.
//
// dlopen(3): a library that is loaded with RTLD_DEEPBIND calls the free of libc for a
// block of the hook, and the program dies. So that flag is left out; other allocators that
// are preloaded have to do the same. dlopen looks where its caller's code lies to find the
// library (RUNPATH), so the caller must stay the caller.
//
// The .cfi lines are for whoever walks the stack from within: a thread that is cancelled.
#include <dlfcn.h>
#include <errno.h>
#include <sys/syscall.h>

// On all processors; not in older headers.
#define UPM_LANDLOCK_RESTRICT_SELF 446
#define UPM_HIDDEN __attribute__((visibility("hidden")))
#define UPM_TEXT(number) UPM_TEXT_(number)
#define UPM_TEXT_(number) #number

extern void *__wrap_dlsym(void *handle, const char *name); // NOLINT(readability-identifier-naming)
extern void upm_hook_before_syscall(long number, long first);

UPM_HIDDEN void *upm_hook_real_dlopen;

UPM_HIDDEN void *upm_hook_find_dlopen(void) {
    if (upm_hook_real_dlopen == 0)
        upm_hook_real_dlopen = __wrap_dlsym(RTLD_NEXT, "dlopen");
    return upm_hook_real_dlopen;
}

UPM_HIDDEN long upm_hook_failed(long result) {
    errno = (int)-result;
    return -1;
}

#if defined(__x86_64__)

__asm__(".text\n"
        ".globl syscall\n"
        ".type syscall, @function\n"
        "syscall:\n"
        "    .cfi_startproc\n"
        "    endbr64\n"
        "    cmp $" UPM_TEXT(__NR_seccomp) ", %rdi\n"
        "    je 2f\n"
        "    cmp $" UPM_TEXT(__NR_prctl) ", %rdi\n"
        "    je 2f\n"
        "    cmp $" UPM_TEXT(__NR_exit) ", %rdi\n"
        "    je 2f\n"
        "    cmp $" UPM_TEXT(__NR_unshare) ", %rdi\n"
        "    je 2f\n"
        "    cmp $" UPM_TEXT(__NR_capset) ", %rdi\n"
        "    je 2f\n"
        "    cmp $" UPM_TEXT(__NR_fanotify_init) ", %rdi\n"
        "    je 2f\n"
        "    cmp $" UPM_TEXT(UPM_LANDLOCK_RESTRICT_SELF) ", %rdi\n"
        "    je 2f\n"
        "1:  mov %rdi, %rax\n"
        "    mov %rsi, %rdi\n"
        "    mov %rdx, %rsi\n"
        "    mov %rcx, %rdx\n"
        "    mov %r8, %r10\n"
        "    mov %r9, %r8\n"
        "    mov 8(%rsp), %r9\n"
        "    syscall\n"
        "    cmp $-4095, %rax\n"
        "    jae 3f\n"
        "    ret\n"
        "2:  push %rdi\n"
        "    .cfi_adjust_cfa_offset 8\n"
        "    push %rsi\n"
        "    .cfi_adjust_cfa_offset 8\n"
        "    push %rdx\n"
        "    .cfi_adjust_cfa_offset 8\n"
        "    push %rcx\n"
        "    .cfi_adjust_cfa_offset 8\n"
        "    push %r8\n"
        "    .cfi_adjust_cfa_offset 8\n"
        "    push %r9\n"
        "    .cfi_adjust_cfa_offset 8\n"
        "    sub $8, %rsp\n"
        "    .cfi_adjust_cfa_offset 8\n"
        "    call upm_hook_before_syscall\n"
        "    add $8, %rsp\n"
        "    .cfi_adjust_cfa_offset -8\n"
        "    pop %r9\n"
        "    .cfi_adjust_cfa_offset -8\n"
        "    pop %r8\n"
        "    .cfi_adjust_cfa_offset -8\n"
        "    pop %rcx\n"
        "    .cfi_adjust_cfa_offset -8\n"
        "    pop %rdx\n"
        "    .cfi_adjust_cfa_offset -8\n"
        "    pop %rsi\n"
        "    .cfi_adjust_cfa_offset -8\n"
        "    pop %rdi\n"
        "    .cfi_adjust_cfa_offset -8\n"
        "    jmp 1b\n"
        "3:  mov %rax, %rdi\n"
        "    jmp upm_hook_failed\n"
        "    .cfi_endproc\n"
        ".size syscall, .-syscall\n"
        ".globl dlopen\n"
        ".type dlopen, @function\n"
        "dlopen:\n"
        "    .cfi_startproc\n"
        "    endbr64\n"
        "    and $~8, %esi\n"
        "    push %rdi\n"
        "    .cfi_adjust_cfa_offset 8\n"
        "    push %rsi\n"
        "    .cfi_adjust_cfa_offset 8\n"
        "    sub $8, %rsp\n"
        "    .cfi_adjust_cfa_offset 8\n"
        "    call upm_hook_find_dlopen\n"
        "    add $8, %rsp\n"
        "    .cfi_adjust_cfa_offset -8\n"
        "    pop %rsi\n"
        "    .cfi_adjust_cfa_offset -8\n"
        "    pop %rdi\n"
        "    .cfi_adjust_cfa_offset -8\n"
        "    test %rax, %rax\n"
        "    je 4f\n"
        "    jmp *%rax\n"
        "4:  ret\n"
        "    .cfi_endproc\n"
        ".size dlopen, .-dlopen\n");

#elif defined(__aarch64__)

__asm__(".text\n"
        ".globl syscall\n"
        ".type syscall, %function\n"
        "syscall:\n"
        "    .cfi_startproc\n"
        "    cmp x0, #" UPM_TEXT(__NR_seccomp) "\n"
        "    b.eq 2f\n"
        "    cmp x0, #" UPM_TEXT(__NR_prctl) "\n"
        "    b.eq 2f\n"
        "    cmp x0, #" UPM_TEXT(__NR_exit) "\n"
        "    b.eq 2f\n"
        "    cmp x0, #" UPM_TEXT(__NR_unshare) "\n"
        "    b.eq 2f\n"
        "    cmp x0, #" UPM_TEXT(__NR_capset) "\n"
        "    b.eq 2f\n"
        "    cmp x0, #" UPM_TEXT(__NR_fanotify_init) "\n"
        "    b.eq 2f\n"
        "    cmp x0, #" UPM_TEXT(UPM_LANDLOCK_RESTRICT_SELF) "\n"
        "    b.eq 2f\n"
        "1:  mov x8, x0\n"
        "    mov x0, x1\n"
        "    mov x1, x2\n"
        "    mov x2, x3\n"
        "    mov x3, x4\n"
        "    mov x4, x5\n"
        "    mov x5, x6\n"
        "    svc #0\n"
        "    cmn x0, #4095\n"
        "    b.cs upm_hook_failed\n"
        "    ret\n"
        "2:  stp x29, x30, [sp, #-80]!\n"
        "    .cfi_adjust_cfa_offset 80\n"
        "    .cfi_rel_offset x29, 0\n"
        "    .cfi_rel_offset x30, 8\n"
        "    stp x0, x1, [sp, #16]\n"
        "    stp x2, x3, [sp, #32]\n"
        "    stp x4, x5, [sp, #48]\n"
        "    str x6, [sp, #64]\n"
        "    bl upm_hook_before_syscall\n"
        "    ldp x0, x1, [sp, #16]\n"
        "    ldp x2, x3, [sp, #32]\n"
        "    ldp x4, x5, [sp, #48]\n"
        "    ldr x6, [sp, #64]\n"
        "    ldp x29, x30, [sp], #80\n"
        "    .cfi_adjust_cfa_offset -80\n"
        "    .cfi_restore x29\n"
        "    .cfi_restore x30\n"
        "    b 1b\n"
        "    .cfi_endproc\n"
        ".size syscall, .-syscall\n"
        ".globl dlopen\n"
        ".type dlopen, %function\n"
        "dlopen:\n"
        "    .cfi_startproc\n"
        "    and w1, w1, #0xfffffff7\n"
        "    stp x29, x30, [sp, #-32]!\n"
        "    .cfi_adjust_cfa_offset 32\n"
        "    .cfi_rel_offset x29, 0\n"
        "    .cfi_rel_offset x30, 8\n"
        "    stp x0, x1, [sp, #16]\n"
        "    bl upm_hook_find_dlopen\n"
        "    mov x16, x0\n"
        "    ldp x0, x1, [sp, #16]\n"
        "    ldp x29, x30, [sp], #32\n"
        "    .cfi_adjust_cfa_offset -32\n"
        "    .cfi_restore x29\n"
        "    .cfi_restore x30\n"
        "    cbz x16, 4f\n"
        "    br x16\n"
        "4:  mov x0, #0\n"
        "    ret\n"
        "    .cfi_endproc\n"
        ".size dlopen, .-dlopen\n");

#else
#error "write syscall and dlopen for this processor"
#endif
