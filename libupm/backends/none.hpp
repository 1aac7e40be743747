// SPDX-License-Identifier: MIT
//
// The backend that merges nothing: what is left when no other one works, so that
// programs need no special case for machines without UPM.
#ifndef UPM_BACKENDS_NONE_HPP
#define UPM_BACKENDS_NONE_HPP

#include "libupm/engine/backend.hpp"

namespace upm {

class NoneBackend final : public Backend {
  public:
    constexpr NoneBackend() noexcept = default;
    [[nodiscard]] const char *name() const noexcept override { return "none"; }
    int open(Reason &reason) noexcept override;
    [[nodiscard]] Capabilities capabilities() const noexcept override { return {}; }
    int run(const Call &call, upm_counts &counts) noexcept override;
    int open_domain(const std::uint8_t (&key)[16]) noexcept override;
    int stats(int domain_fd, struct upm_stats &stats) noexcept override;
};

} // namespace upm

#endif // UPM_BACKENDS_NONE_HPP
