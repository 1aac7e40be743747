/* SPDX-License-Identifier: MIT */
/*
 * The layout of the kernel interface, as a C compiler sees it. abi_layout.inc is
 * the list; abi_layout_test.cpp has the same from C++. A number here changes only
 * together with UPM_ABI_VERSION, or by a structure that grows at its end.
 */
#include "kmod/uapi/upm.h"

/* Both headers must also get on with each other in one file of plain C. */
#include <upm/upm.h>

#include <stddef.h>

#define UPM_SIZE(type, size) _Static_assert(sizeof(struct type) == (size), #type);
#define UPM_FIELD(type, field, offset, size)                                                       \
    _Static_assert(offsetof(struct type, field) == (offset), #type "." #field);                    \
    _Static_assert(sizeof(((struct type *)0)->field) == (size), #type "." #field);
#define UPM_CALL(name, number) _Static_assert((name) == (number), #name);
#include "tests/libupm/backends/abi_layout.inc"

/* Called from the test, so that the linker sees the C interface used from C. */
int upm_c_smoke(void);

int upm_c_smoke(void) {
    struct upm_counts counts;
    struct upm_info info;
    int ret = upm_info(&info);

    if (ret != 0)
        return ret;
    ret = upm_advise(NULL, 0, 1U << 31, &counts);
    return upm_skip_name(UPM_SKIPPED_BUSY) == NULL ? 0 : ret;
}
