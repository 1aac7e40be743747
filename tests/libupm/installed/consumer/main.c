/* SPDX-License-Identifier: MIT */
#include <upm/upm.h>

#include <errno.h>
#include <stdio.h>

int main(void) {
    struct upm_counts counts;
    struct upm_info info;

    if (upm_info(&info) != 0)
        return 1;
    printf("%s: %s\n", info.backend, info.reason);
    return upm_advise(NULL, 0, 0, &counts) == -EOPNOTSUPP ? 0 : 2;
}
