// SPDX-License-Identifier: MIT
//
// A backend under test, behind an engine of its own.
#ifndef UPM_TESTS_LIBUPM_CONTRACT_SUBJECT_HPP
#define UPM_TESTS_LIBUPM_CONTRACT_SUBJECT_HPP

#include "libupm/engine/engine.hpp"
#include "tests/support/leaks.hpp"

#include <string>
#include <vector>

namespace upm::test {

// Those that this build has, whether or not they work here.
std::vector<std::string> backend_names();

class Subject {
  public:
    // Post: unavailable() is empty, or the reason why there is no such backend.
    explicit Subject(const std::string &name);
    [[nodiscard]] const std::string &unavailable() const { return unavailable_; }

    // Each also expects what holds for every call: the sum of the counts.
    int advise(const void *data, std::size_t len, unsigned flags = 0);
    int unmerge(const void *data, std::size_t len);
    [[nodiscard]] const upm_counts &counts() const { return counts_; }
    [[nodiscard]] std::uint64_t skipped() const;

    [[nodiscard]] Capabilities can() const { return engine_.backend().capabilities(); }
    Engine &engine() { return engine_; }

  private:
    int submit(Request request);

    Engine engine_;
    std::string unavailable_;
    upm_counts counts_{};
};

} // namespace upm::test

#endif // UPM_TESTS_LIBUPM_CONTRACT_SUBJECT_HPP
