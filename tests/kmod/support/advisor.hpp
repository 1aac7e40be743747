// SPDX-License-Identifier: MIT
//
// A thread that advises a region again and again, as long as the object lives, while the
// calling one does something to it.
#ifndef UPM_TESTS_KMOD_SUPPORT_ADVISOR_HPP
#define UPM_TESTS_KMOD_SUPPORT_ADVISOR_HPP

#include "tests/kmod/support/device.hpp"
#include "tests/support/region.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <thread>

namespace upm::test {

class Advisor {
  public:
    explicit Advisor(const Region &region)
        : thread_([this, &region] {
              const Device upm;
              while (!stop_) {
                  const Advice advice = upm.advise(region.base(), region.len());
                  // A hole may be there at the moment.
                  EXPECT_TRUE(advice.error == 0 || advice.error == ENOMEM) << advice.error;
              }
          }) {}
    ~Advisor() {
        stop_ = true;
        thread_.join();
    }
    Advisor(const Advisor &) = delete;
    Advisor &operator=(const Advisor &) = delete;

  private:
    std::atomic<bool> stop_{false};
    std::thread thread_;
};

} // namespace upm::test

#endif // UPM_TESTS_KMOD_SUPPORT_ADVISOR_HPP
