// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reading the bytes of a page, of which the memory may be broken.
 *
 * DOC: memory that cannot be read
 *
 * A processor that meets an error of the memory in a load raises a machine check, and in
 * the kernel that ends the machine, unless the load has an entry in the exception table
 * that says otherwise. That is what copy_mc_to_kernel() does, which costs a copy. So the
 * loads of the loops below have such entries of their own: a page with an error is equal
 * to nothing, and is reported to the kernel as it reports one that a copy met.
 *
 * Pages are compared in registers of 32 bytes where the processor has AVX2, which takes half
 * as long if both are in its caches, and else in registers of 16.
 *
 * What reads a page by other means (the hash, a copy) asks upm_page_readable() first,
 * which loads a word of each line of the cache: an error is one of a line. The lines are
 * in the cache then, where the memory behind them is of no matter to who reads them next.
 */
#include <linux/hash.h>
#include <linux/init.h>
#include <linux/mm.h>

#if defined(CONFIG_X86_64) && defined(CONFIG_ARCH_HAS_COPY_MC)
#include <asm/asm.h>
#include <asm/fpu/api.h>
#include <asm/fpu/types.h>
#endif

#include "upm.h"

#if defined(CONFIG_X86_64) && defined(CONFIG_ARCH_HAS_COPY_MC)

/* Bytes that one block of assembler goes over, and those of a line of the cache. */
#define BLOCK 512U
#define WIDE_BLOCK 1024U
#define LINE 64U

/* A load whose memory error goes on at the label 9. */
#define SURVIVED(_load)							\
	"1: " _load "\n"						\
	_ASM_EXTABLE_TYPE(1b, 9f, EX_TYPE_DEFAULT_MCE_SAFE)

/*
 * 1: equal, 0: not, -EIO: memory error. Both are aligned. The registers are no clobbers:
 * the compiler knows nothing of them in the kernel, and the caller has got them.
 */
static __always_inline int block_equal(const char *a, const char *b)
{
	asm goto("pxor %%xmm1, %%xmm1\n"
		 ".irp line, 0, 64, 128, 192, 256, 320, 384, 448\n"
		 ".irp word, 0, 16, 32, 48\n"
		 SURVIVED("movdqa \\line + \\word(%[a]), %%xmm0")
		 SURVIVED("pxor \\line + \\word(%[b]), %%xmm0")
		 "por %%xmm0, %%xmm1\n"
		 ".endr\n"
		 ".endr\n"
		 "pxor %%xmm0, %%xmm0\n"
		 "pcmpeqb %%xmm0, %%xmm1\n"
		 "pmovmskb %%xmm1, %%eax\n"
		 "cmpl $0xffff, %%eax\n"
		 "je 8f\n"
		 "jmp %l[differ]\n"
		 "9: jmp %l[broken]\n"
		 "8:\n"
		 : /* no outputs */
		 : [a] "r" (a), [b] "r" (b)
		 : "rax", "cc", "memory"
		 : differ, broken);
	return 1;
differ:
	return 0;
broken:
	return -EIO;
}

/* The same in registers of 32 bytes. wide_end() follows the last block. */
static __always_inline int block_equal_wide(const char *a, const char *b)
{
	asm goto("vpxor %%xmm1, %%xmm1, %%xmm1\n"
		 ".irp part, 0, 256, 512, 768\n"
		 ".irp word, 0, 32, 64, 96, 128, 160, 192, 224\n"
		 SURVIVED("vmovdqa \\part + \\word(%[a]), %%ymm0")
		 SURVIVED("vpxor \\part + \\word(%[b]), %%ymm0, %%ymm0")
		 "vpor %%ymm0, %%ymm1, %%ymm1\n"
		 ".endr\n"
		 ".endr\n"
		 "vptest %%ymm1, %%ymm1\n"
		 "jz 8f\n"
		 "jmp %l[differ]\n"
		 "9: jmp %l[broken]\n"
		 "8:\n"
		 : /* no outputs */
		 : [a] "r" (a), [b] "r" (b)
		 : "cc", "memory"
		 : differ, broken);
	return 1;
differ:
	return 0;
broken:
	return -EIO;
}

static __always_inline void wide_end(void)
{
	asm volatile("vzeroupper");
}

static bool __init wide_usable(void)
{
	return boot_cpu_has(X86_FEATURE_AVX2) &&
	       cpu_has_xfeatures(XFEATURE_MASK_SSE | XFEATURE_MASK_YMM, NULL);
}

static __always_inline int line_zero(const char *a)
{
	asm goto("xorl %%ecx, %%ecx\n"
		 ".irp word, 0, 8, 16, 24, 32, 40, 48, 56\n"
		 SURVIVED("orq \\word(%[a]), %%rcx")
		 ".endr\n"
		 "testq %%rcx, %%rcx\n"
		 "jz 8f\n"
		 "jmp %l[differ]\n"
		 "9: jmp %l[broken]\n"
		 "8:\n"
		 : /* no outputs */
		 : [a] "r" (a)
		 : "rcx", "cc", "memory"
		 : differ, broken);
	return 1;
differ:
	return 0;
broken:
	return -EIO;
}

/* Loads a word of each line of a block. */
static __always_inline bool block_readable(const char *a)
{
	asm goto(".irp line, 0, 64, 128, 192, 256, 320, 384, 448\n"
		 SURVIVED("movq \\line(%[a]), %%rax")
		 ".endr\n"
		 "jmp 8f\n"
		 "9: jmp %l[broken]\n"
		 "8:\n"
		 : /* no outputs */
		 : [a] "r" (a)
		 : "rax", "memory"
		 : broken);
	return true;
broken:
	return false;
}

#else /* memory errors are fatal where the kernel reads */

#define BLOCK 64U
#define WIDE_BLOCK 64U
#define LINE 64U

static inline void kernel_fpu_begin(void)
{
}

static inline void kernel_fpu_end(void)
{
}

static __always_inline int block_equal(const char *a, const char *b)
{
	const u64 *x = (const u64 *)a, *y = (const u64 *)b;

	return !((x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) |
		 (x[3] ^ y[3]) | (x[4] ^ y[4]) | (x[5] ^ y[5]) |
		 (x[6] ^ y[6]) | (x[7] ^ y[7]));
}

static __always_inline int block_equal_wide(const char *a, const char *b)
{
	return block_equal(a, b);
}

static __always_inline void wide_end(void)
{
}

static bool __init wide_usable(void)
{
	return false;
}

static __always_inline int line_zero(const char *a)
{
	const u64 *x = (const u64 *)a;

	return !(x[0] | x[1] | x[2] | x[3] | x[4] | x[5] | x[6] | x[7]);
}

static __always_inline bool block_readable(const char *a)
{
	return true;
}

#endif

static bool wide __ro_after_init; /* registers of 32 bytes can be used */

void __init upm_bytes_init(void)
{
	wide = wide_usable();
}

/*
 * Returns 1 if the pages at @a and @b are equal, 0 if not, -EIO if one cannot be read. Not
 * in an interrupt. It cannot be preempted: for less than a microsecond.
 */
int upm_bytes_equal(const void *a, const void *b)
{
	unsigned int at;
	int equal = 1;

	kernel_fpu_begin();
	if (wide) {
		for (at = 0; at < PAGE_SIZE && equal == 1; at += WIDE_BLOCK)
			equal = block_equal_wide(a + at, b + at);
		wide_end();
	} else {
		for (at = 0; at < PAGE_SIZE && equal == 1; at += BLOCK)
			equal = block_equal(a + at, b + at);
	}
	kernel_fpu_end();
	return equal;
}

/* Returns 1 if the page at @a is all zeros, 0 if not, -EIO if it cannot be read. */
int upm_bytes_zero(const void *a)
{
	unsigned int at;
	int zero = 1;

	for (at = 0; at < PAGE_SIZE && zero == 1; at += LINE)
		zero = line_zero(a + at);
	return zero;
}

/*
 * Returns true if every byte of @page, which is mapped at @bytes, can be read, and soon
 * after that without an error. Else the kernel is told to deal with the frame.
 */
bool upm_page_readable(struct page *page, const void *bytes)
{
	unsigned int at;

	for (at = 0; at < PAGE_SIZE; at += BLOCK)
		if (!block_readable(bytes + at))
			break;
	if (at == PAGE_SIZE)
		return true;
#ifdef CONFIG_MEMORY_FAILURE
	memory_failure_queue(page_to_pfn(page), 0);
#endif
	return false;
}

/* ---- a hash ---------------------------------------------------------------- */

/* The bits of both halves of the product. */
static u64 mix(u64 a, u64 b)
{
	unsigned __int128 product = (unsigned __int128)a * b;

	return (u64)product ^ (u64)(product >> 64);
}

/*
 * Four lanes, each of which multiplies what came before with the next two words, as wyhash
 * and its kin do. It says where to look; what is found there is compared.
 */
static u64 hash_page(const u64 *w, const u64 key[UPM_KEY_WORDS])
{
	const u64 *end = w + PAGE_SIZE / sizeof(*w);
	u64 a = key[4], b = key[5], c = key[6], d = key[7];

	for (; w < end; w += 8) {
		a = mix(w[0] ^ key[0], w[1] ^ a);
		b = mix(w[2] ^ key[1], w[3] ^ b);
		c = mix(w[4] ^ key[2], w[5] ^ c);
		d = mix(w[6] ^ key[3], w[7] ^ d);
	}
	return mix(mix(a ^ key[0], b ^ key[1]) ^ key[4],
		   mix(c ^ key[2], d ^ key[3]) ^ key[5]);
}

/**
 * upm_bytes_hash() - key of a page's content
 * @dom: its secret keys the hash
 * @bytes: the page, which can be read
 * @nid: NUMA node that the shared page must be on, NUMA_NO_NODE for any
 */
u64 upm_bytes_hash(const struct upm_domain *dom, const void *bytes, int nid)
{
	u64 hash = hash_page(bytes, dom->hash_key);

	if (nid != NUMA_NO_NODE)
		hash ^= hash_64((u64)nid + 1, 64);
	return hash;
}
