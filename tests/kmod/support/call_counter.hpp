// SPDX-License-Identifier: MIT
//
// How often a function of the kernel was called, by whomever: a kprobe, as long as the
// object lives. What a time would tell on an idle machine, this tells on any.
#ifndef UPM_TESTS_KMOD_SUPPORT_CALL_COUNTER_HPP
#define UPM_TESTS_KMOD_SUPPORT_CALL_COUNTER_HPP

#include "tests/support/file.hpp"
#include "tests/support/support.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <sstream>
#include <string>
#include <utility>

namespace upm::test {

class CallCounter {
  public:
    explicit CallCounter(std::string function) : function_(std::move(function)) {
        works_ = write_file(kTracing + "kprobe_events",
                            "p:upm_test/" + function_ + " " + function_) == 0;
        if (works_) {
            EXPECT_EQ(enable("1"), 0);
        }
    }
    ~CallCounter() {
        if (!works_)
            return;
        EXPECT_EQ(enable("0"), 0);
        EXPECT_EQ(write_file(kTracing + "kprobe_events", "-:upm_test/" + function_), 0);
    }
    CallCounter(const CallCounter &) = delete;
    CallCounter &operator=(const CallCounter &) = delete;

    // False where the kernel has no kprobes, or no such function.
    [[nodiscard]] explicit operator bool() const { return works_; }

    [[nodiscard]] std::uint64_t count() const {
        std::istringstream lines(read_file(kTracing + "kprobe_profile"));
        std::string name;
        std::uint64_t hits = 0;
        std::uint64_t missed = 0;
        while (lines >> name >> hits >> missed)
            if (name == function_)
                return hits;
        ADD_FAILURE() << "no kprobe of " << function_;
        return 0;
    }

  private:
    int enable(const char *value) const {
        return write_file(kTracing + "events/upm_test/" + function_ + "/enable", value);
    }

    inline static const std::string kTracing = "/sys/kernel/tracing/";
    std::string function_;
    bool works_ = false;
};

} // namespace upm::test

#endif // UPM_TESTS_KMOD_SUPPORT_CALL_COUNTER_HPP
