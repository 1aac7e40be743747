// SPDX-License-Identifier: MIT
//
// Calls that make no sense: the structures of good calls with a few fields changed, of odd
// sizes, by odd numbers, on memory whose mappings change all the while. What they return is
// of no matter; the kernel log stays clean, memory that no call names keeps its bytes, and
// nothing is left behind. UPM_TEST_SECONDS=3600 makes a long run of it, UPM_TEST_SEED the
// same one again.
#include "tests/kmod/support/actor.hpp"
#include "tests/kmod/support/source.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <span>
#include <thread>

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace upm::test {

namespace {

constexpr std::size_t kPages = 96;
constexpr unsigned kCalls = 5;

class Fuzz : public KmodTest {};

// What the calls of one thread work on.
class Field {
  public:
    explicit Field(std::uint64_t seed)
        : random_(seed), pattern_{Content::kDistinct, seed},
          source_({Content::kMixed, seed}, kPages / 2, 99), memory_((kPages + 2) * kPage),
          kept_(kPages * kPage) {
        kept_.fill(pattern_);
    }

    void step() {
        if (random_.below(6) == 0)
            change();
        std::array<std::uint64_t, 64> call{};
        const auto number = static_cast<unsigned>(random_.below(kCalls + 1));
        std::size_t size = seed(number, call);
        const std::span<std::uint64_t> words(call.data(), size / sizeof(call[0]));
        for (std::uint64_t i = random_.below(4); i > 0; i--)
            mutate(words);
        if (random_.below(8) == 0)
            size = random_.below(sizeof(call));
        const unsigned direction = random_.below(32) == 0 ? _IOC_NONE : _IOC_READ | _IOC_WRITE;
        const int got = ::ioctl(random_.below(64) == 0 ? source_.fd() : upm_.fd(),
                                _IOC(direction, UPM_IOC_MAGIC, number, size), call.data());
        if (got == 0 && number == 2 && size >= sizeof(upm_ioc_domain))
            domain_ = Fd(static_cast<int>(call[0] >> 32U));
    }

    // Memory that the calls were never given is what it was.
    void check() const {
        std::array<std::byte, kPage> wanted{};
        for (std::size_t i = 0; i < kPages; i++) {
            pattern_.fill(i, wanted.data());
            EXPECT_EQ(std::memcmp(kept_.page(i), wanted.data(), kPage), 0);
        }
    }

  private:
    // A call that works. Returns its size.
    std::size_t seed(unsigned number, std::array<std::uint64_t, 64> &call) {
        const std::size_t page = random_.below(kPages);
        const auto addr = reinterpret_cast<std::uint64_t>(memory_.page(page));
        const std::uint64_t len = random_.below(kPages - page + 1) * kPage;
        const int domain = domain_ && random_.below(2) == 0 ? domain_.get() : -1;
        const auto put = [&](const auto &structure) {
            std::memcpy(call.data(), &structure, sizeof(structure));
            return sizeof(structure);
        };
        switch (number) {
        case 0:
            return put(upm_ioc_info{});
        case 1: {
            upm_ioc_advise a{};
            a.flags = static_cast<std::uint32_t>(random_.below(3));
            a.domain_fd = domain;
            a.addr = addr;
            a.len = len;
            return put(a);
        }
        case 2: {
            upm_ioc_domain d{};
            d.key[0] = static_cast<std::uint8_t>(random_.below(4));
            return put(d);
        }
        case 3: {
            upm_ioc_stats s{};
            s.domain_fd = domain;
            return put(s);
        }
        default: {
            upm_ioc_load l{};
            l.fd = source_.fd();
            l.domain_fd = domain;
            l.offset = random_.below(source_.size());
            l.addr = addr + random_.below(kPage);
            l.len = len > kPage ? len - kPage + random_.below(kPage) : 0;
            return put(l);
        }
        }
    }

    void mutate(std::span<std::uint64_t> words) {
        if (words.empty())
            return;
        // Not the addresses: a load or an advise of other memory is no nonsense.
        std::uint64_t &word = words[random_.below(words.size())];
        const auto first = reinterpret_cast<std::uint64_t>(memory_.base());
        if (word >= first && word < first + memory_.len())
            return;
        constexpr std::uint64_t kOdd[] = {0, 1, ~0ULL, 1ULL << 63U, 0xffff'ffffULL, kPage - 1};
        if (random_.below(2) == 0)
            word ^= std::uint64_t{1} << random_.below(64);
        else
            word = kOdd[random_.below(std::size(kOdd))];
        // Nor a length that reaches beyond the field.
        if (&word == words.data() + 3 || &word == words.data() + 4)
            word = random_.below(2) == 0 ? word | 1ULL << 62U : word % kPage;
    }

    // Something else happens to the memory.
    void change() {
        constexpr std::size_t kPart = 16;
        const std::size_t page = random_.below(kPages - kPart);
        std::byte *at = memory_.page(page);
        constexpr int kAdvice[] = {MADV_DONTNEED, MADV_HUGEPAGE,  MADV_NOHUGEPAGE, MADV_DONTDUMP,
                                   MADV_DODUMP,   MADV_MERGEABLE, MADV_PAGEOUT,    MADV_FREE};
        constexpr int kProtection[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE,
                                       PROT_READ | PROT_WRITE};
        switch (random_.below(4)) {
        case 0:
            ::mprotect(at, kPart * kPage, kProtection[random_.below(std::size(kProtection))]);
            break;
        case 1:
            EXPECT_NE(::mmap(at, kPart * kPage, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
                      MAP_FAILED);
            break;
        default:
            ::madvise(at, kPart * kPage, kAdvice[random_.below(std::size(kAdvice))]);
        }
    }

    Random random_;
    Pattern pattern_;
    Device upm_;
    Fd domain_;
    Source source_;
    Mapping memory_; // of which the last pages are for lengths that are a little too long
    Mapping kept_;
};

// Makes calls from two threads for a while; returns how many.
std::uint64_t make_calls(std::uint64_t seed, double seconds) {
    const auto run = [seconds](std::uint64_t own, std::uint64_t &made) {
        Field field(own);
        const double end = now() + seconds;
        for (made = 0; now() < end || made < 500; made++)
            field.step();
        field.check();
    };
    std::uint64_t others = 0;
    std::thread second([&] { run(seed + 1, others); });
    std::uint64_t made = 0;
    run(seed, made);
    second.join();
    return made + others;
}

// In parts, each by a process of its own: a child that takes an hour is taken for dead.
TEST_F(Fuzz, Calls) {
    constexpr double kPart = 60; // seconds
    const std::uint64_t seed = fresh_seed();
    const double all = test_seconds(4);
    std::uint64_t made = 0;
    std::uint64_t parts = 0;
    do {
        Process child;
        made += child.call(&make_calls, seed + 2 * parts,
                           std::min(kPart, all - kPart * static_cast<double>(parts)));
        parts++;
    } while (kPart * static_cast<double>(parts) < all);
    std::cout << made << " calls in " << parts << " parts\n";
}

} // namespace

} // namespace upm::test
