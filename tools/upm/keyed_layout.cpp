// SPDX-License-Identifier: MIT
#include "tools/upm/keyed_layout.hpp"

#include "libupm/base/layout_state.hpp"
#include "tools/common/descriptor.hpp"
#include "tools/common/errors.hpp"
#include "tools/common/sizes.hpp"
#include "tools/common/text.hpp"

#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <fmt/format.h>
#include <string_view>
#include <sys/personality.h>
#include <sys/resource.h>
#include <unistd.h>

namespace upm::tool::cli {

namespace {

// Eight letters as a number, the first one lowest.
consteval std::uint64_t label(std::string_view name) {
    std::uint64_t word = 0;
    for (std::size_t i = 0; i < sizeof(word); ++i)
        word |= std::uint64_t{static_cast<unsigned char>(name.at(i))} << (8 * i);
    return word;
}

std::uint64_t place(const HashKey &key, std::uint64_t name, unsigned bits) noexcept {
    return siphash<2, 4>(key, name) >> (64 - bits);
}

void set_variable(const char *name, const std::string &value) {
    if (::setenv(name, value.c_str(), 1) != 0)
        throw SystemError("set", name, errno);
}

void switch_randomisation_off() {
    const unsigned long before = own_personality();
    if ((before & ADDR_NO_RANDOMIZE) == 0 && ::personality(before | ADDR_NO_RANDOMIZE) < 0)
        throw Failure("personality(2) is not allowed here (the seccomp filter of a container?)",
                      errno);
}

// Then mappings grow from below, and no limit moves them.
bool grows_from_below(unsigned long personality) {
    if ((personality & ADDR_COMPAT_LAYOUT) != 0)
        return true;
    // No stream of C++, whose first use takes ten times as long.
    const Descriptor file(::open("/proc/sys/vm/legacy_va_layout", O_RDONLY | O_CLOEXEC));
    char digit = '0';
    return file && ::read(file.get(), &digit, sizeof(digit)) == 1 && digit != '0';
}

} // namespace

Places places_of(const HashKey &key) noexcept {
    constexpr std::uint64_t kSeeds = (std::uint64_t{1} << 32U) - 1;
    Places places;
    places.gap = kLeastGap + place(key, label("upm-maps"), kMapBits) * kLayoutPage;
    places.heap = kLeastHeap + place(key, label("upm-heap"), kHeapBits) * kLayoutPage;
    places.hash_seed = 1 + siphash<2, 4>(key, label("upm-hash")) % kSeeds;
    places.free_mark = siphash<2, 4>(key, label("upm-free")) | 1U;
    return places;
}

std::string why_stock_layout(const Program &program) {
    if (std::string why = why_no_hook(program); !why.empty())
        return why;
    if (program.by_env)
        return "env(1) starts the script's interpreter, and would have the layout instead; name " +
               printable(program.path) + " before the script";
    if (program.loader != Loader::kGlibc)
        return "nobody knows if the hook gets into " + printable(program.path);
    if (has_sanitizer(program))
        return printable(program.path) + " has a sanitizer, which keeps places for itself";
    return "";
}

unsigned long own_personality() {
    const int now = ::personality(0xffffffff); // asks only
    if (now < 0)
        throw Failure("cannot ask for the personality", errno);
    return static_cast<unsigned>(now);
}

void choose_keyed_layout(const Places &places, unsigned long personality) {
    rlimit before{};
    if (::getrlimit(RLIMIT_STACK, &before) != 0)
        throw Failure("cannot read the limit of the stack", errno);
    if (before.rlim_max < places.gap)
        throw Failure(fmt::format("the hard limit of the stack is {} (ulimit -Hs); it has to be "
                                  "unlimited",
                                  human_bytes(before.rlim_max)));
    if (grows_from_below(personality))
        throw Failure("addresses are given from below here (vm.legacy_va_layout)");
    const rlimit keyed{.rlim_cur = places.gap, .rlim_max = before.rlim_max};
    if (::setrlimit(RLIMIT_STACK, &keyed) != 0)
        throw Failure("cannot set the limit of the stack", errno);
    try {
        switch_randomisation_off();
    } catch (...) {
        (void)::setrlimit(RLIMIT_STACK, &before);
        throw;
    }
    const char *const seed = std::getenv("PYTHONHASHSEED");
    const LayoutState state{.gap = places.gap,
                            .stack = before.rlim_cur,
                            .personality = personality,
                            .heap = places.heap,
                            .hash_seed = seed == nullptr || *seed == '\0' ? places.hash_seed : 0,
                            .free_mark = places.free_mark};
    const LayoutText text = layout_text(state);
    set_variable(kLayoutVariable.data(), std::string(text.data(), text.size()));
}

void choose_fixed_layout() {
    switch_randomisation_off();
    set_variable("PYTHONHASHSEED", "0");
}

} // namespace upm::tool::cli
