// SPDX-License-Identifier: MIT
//
// The backend over the kernel's own scanner, KSM: advise hands the memory over
// (MADV_MERGEABLE), and ksmd merges it when it gets there.
#ifndef UPM_BACKENDS_KSM_HPP
#define UPM_BACKENDS_KSM_HPP

#include "libupm/engine/backend.hpp"

namespace upm {

class KsmBackend final : public Backend {
  public:
    // `knobs` and `proc` are other places for tests; both must outlive the object. Without
    // `proc`, own_proc() says where.
    constexpr explicit KsmBackend(const char *knobs = "/sys/kernel/mm/ksm",
                                  const char *proc = nullptr) noexcept
        : knobs_(knobs), proc_(proc) {}

    [[nodiscard]] const char *name() const noexcept override { return "ksm"; }
    int open(Reason &reason) noexcept override;
    [[nodiscard]] Capabilities capabilities() const noexcept override {
        return {.advise = true,
                .immediate = false,
                .remote = false,
                .file_pages = false,
                .unmerge = true,
                .dry_run = true,
                .domains = false,
                .any_table = true};
    }
    int run(const Call &call, upm_counts &counts) noexcept override;
    int open_domain(const std::uint8_t (&key)[16]) noexcept override;
    int stats(int domain_fd, struct upm_stats &stats) noexcept override;

  private:
    bool knob(const char *name, std::uint64_t &value) const noexcept;
    int run_parts(const Call &call, upm_counts &counts) noexcept;

    const char *knobs_;
    const char *proc_;
};

} // namespace upm

#endif // UPM_BACKENDS_KSM_HPP
