// SPDX-License-Identifier: MIT
//
// The layout of the interfaces, from C++; from C in abi_layout.c.
#include "kmod/uapi/upm.h"

#include <upm/upm.h>

#include <cerrno>
#include <cstddef>
#include <gtest/gtest.h>
#include <type_traits>

#define UPM_SIZE(type, size) static_assert(sizeof(struct type) == (size), #type);
#define UPM_FIELD(type, field, offset, size)                                                       \
    static_assert(offsetof(struct type, field) == (offset), #type "." #field);                     \
    static_assert(sizeof(std::declval<struct type>().field) == (size), #type "." #field);
#define UPM_CALL(name, number) static_assert(static_cast<unsigned>(name) == (number), #name);
#include "tests/libupm/backends/abi_layout.inc"

extern "C" int upm_c_smoke(void);

namespace upm::test {

namespace {

template <class T>
constexpr bool kPlain = std::is_trivial_v<T> &&std::is_standard_layout_v<T>;

static_assert(kPlain<upm_ioc_counts> && kPlain<upm_ioc_advise> && kPlain<upm_ioc_domain> &&
              kPlain<upm_ioc_info> && kPlain<upm_ioc_stats> && kPlain<upm_ioc_load> &&
              kPlain<upm_counts>);
// Bytes of implicit padding would carry the caller's stack into the kernel.
static_assert(std::has_unique_object_representations_v<upm_ioc_counts> &&
              std::has_unique_object_representations_v<upm_ioc_advise> &&
              std::has_unique_object_representations_v<upm_ioc_domain> &&
              std::has_unique_object_representations_v<upm_ioc_info> &&
              std::has_unique_object_representations_v<upm_ioc_stats> &&
              std::has_unique_object_representations_v<upm_ioc_load>);

TEST(Abi, CanBeUsedFromC) {
    EXPECT_EQ(upm_c_smoke(), -EINVAL);
}

} // namespace

} // namespace upm::test
