// SPDX-License-Identifier: MIT
//
// The backend that needs no module and no privileges: equal pages become private
// mappings of sealed memfds, which the broker upmd hands from process to process.
// docs/store.md is its description.
#ifndef UPM_STORE_BACKEND_HPP
#define UPM_STORE_BACKEND_HPP

#include "libupm/engine/backend.hpp"
#include "libupm/mm/vma_reader.hpp"
#include "libupm/store/connection_pool.hpp"
#include "libupm/store/freezer.hpp"
#include "libupm/store/load.hpp"
#include "libupm/store/merge.hpp"
#include "libupm/store/run_budget.hpp"

#include <span>

namespace upm {

class StoreBackend final : public Backend {
  public:
    constexpr StoreBackend() noexcept = default;

    [[nodiscard]] const char *name() const noexcept override { return "store"; }
    int open(Reason &reason) noexcept override;
    [[nodiscard]] Capabilities capabilities() const noexcept override {
        return {.advise = true,
                .immediate = true,
                .remote = false,
                .file_pages = false,
                .unmerge = true,
                .dry_run = false,
                .domains = true,
                .restores = true,
                .quiescent = mode_ != store::FreezeMode::kKernel,
                .known_only = true,
                .load = 2,
                .any_table = true};
    }
    int run(const Call &call, upm_counts &counts) noexcept override;
    bool unmapped() noexcept override;
    bool wanted(const LoadCall &call) noexcept override;
    std::int64_t load(const LoadCall &call, upm_load_counts &counts) noexcept override;
    void loaded_plainly(const LoadCall &call) noexcept override;
    int use_key(const std::uint8_t (&key)[16]) noexcept override;
    int open_domain(const std::uint8_t (&key)[16]) noexcept override;
    int stats(int domain_fd, struct upm_stats &stats) noexcept override;
    int describe(std::span<char> text) noexcept override;
    int seed(const SeedCall &call, SeedAnswer &answer, std::span<SeedState> list) noexcept override;
    bool take_own_table() noexcept override;
    void trimmed(std::uint64_t bytes) noexcept override;

  private:
    int find_domain(int fd, store::DomainKey &domain) const noexcept;
    static int run_parts(const Call &call, const void *frame, store::Merge &merge,
                         upm_counts &counts) noexcept;

    store::FreezeMode mode_ = store::FreezeMode::kProtect;
    store::SocketPath path_;
    store::ConnectionPool pool_;
    store::DomainKey default_domain_;
    store::RunBudget budget_;
    store::Patience patience_{1'000};
    store::Patience making_{100};
    store::Luck luck_;
};

} // namespace upm

#endif // UPM_STORE_BACKEND_HPP
