// SPDX-License-Identifier: MIT
//
// When the module looked at a domain, by the kernel's own trace: the sweeps that began,
// periodic ones and those that a closed file set off, and what each found.
#ifndef UPM_TESTS_KMOD_SUPPORT_SWEEP_TRACE_HPP
#define UPM_TESTS_KMOD_SUPPORT_SWEEP_TRACE_HPP

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace upm::test {

// A sweep's look at the domain.
struct Look {
    bool periodic = false; // else by a kick, or by hand
    unsigned period = 0;   // periodic sweeps that had begun since the mark
    std::uint64_t freed = 0;
};

// What a trace held when it was read.
class SweepLog {
  public:
    explicit SweepLog(std::string text) : text_(std::move(text)) {}

    [[nodiscard]] const std::string &text() const { return text_; }
    // How many periodic sweeps began since that mark.
    [[nodiscard]] unsigned periods(const std::string &mark) const;
    // Looks at the domain of this id since that mark.
    [[nodiscard]] std::vector<Look> looks(const std::string &mark, std::uint64_t domain) const;
    // The periodic ones among them.
    [[nodiscard]] std::vector<Look> periodic_looks(const std::string &mark,
                                                   std::uint64_t domain) const;

  private:
    std::string text_;
};

// An instance of tracefs of its own, as long as the object lives.
class SweepTrace {
  public:
    SweepTrace();
    ~SweepTrace();
    SweepTrace(const SweepTrace &) = delete;
    SweepTrace &operator=(const SweepTrace &) = delete;

    // False where the kernel has no such trace.
    [[nodiscard]] explicit operator bool() const { return !path_.empty(); }

    void mark(const std::string &name) const;
    [[nodiscard]] SweepLog read() const;

  private:
    std::string path_; // ends with a slash
};

} // namespace upm::test

#endif // UPM_TESTS_KMOD_SUPPORT_SWEEP_TRACE_HPP
