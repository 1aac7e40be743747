// SPDX-License-Identifier: MIT
//
// What lies between a call that works on memory and those who change its mappings: the
// hook's fork, munmap, mprotect and madvise. A call is inside while it touches the
// memory, and outside while it waits for anybody. So whoever changes a mapping waits for
// the work on a few megabytes, and never for a broker.
#ifndef UPM_BASE_GATE_HPP
#define UPM_BASE_GATE_HPP

#include <atomic>

namespace upm {

namespace detail {
inline constinit std::atomic<bool> no_more_waits{false};
} // namespace detail

// From now on nobody in this process waits for a broker. Who is at it stops within some
// hundredths of a second.
inline void end_waits() noexcept {
    detail::no_more_waits = true;
}
inline bool waits_ended() noexcept {
    return detail::no_more_waits.load(std::memory_order_relaxed);
}

// One call's; used by one thread.
class Gate {
  public:
    constexpr Gate() noexcept = default;
    Gate(const Gate &) = delete;
    Gate &operator=(const Gate &) = delete;

    // False: somebody changed the memory, and the call must not touch it any more. This
    // stays so. The call is inside otherwise.
    virtual bool enter() noexcept = 0;
    // Does nothing if the call is outside. Returns true if it was inside.
    virtual bool leave() noexcept = 0;
    // Lets in who waits, if anybody does. Pre: inside. Returns what enter() does.
    virtual bool breathe() noexcept = 0;
    // True if the call may not come in any more, so that it need not wait on either.
    [[nodiscard]] virtual bool over() const noexcept = 0;
    // Asked while memory is frozen, last before it is replaced. False: somebody has the pages
    // who writes to them without the page tables, and would go on with the old ones. Pre: waits
    // for nobody.
    [[nodiscard]] virtual bool sole_writer() noexcept { return true; }

  protected:
    ~Gate() = default;
};

// While it lives, the call waits outside. Pre: `gate` may be null.
class Outside {
  public:
    explicit Outside(Gate *gate) noexcept : gate_(gate), left_(gate != nullptr && gate->leave()) {}
    Outside(const Outside &) = delete;
    Outside &operator=(const Outside &) = delete;
    ~Outside() { (void)back(); }

    // Goes back inside if the call was there. False: it may not.
    bool back() noexcept {
        const bool allowed = !left_ || gate_->enter();
        left_ = false;
        return allowed;
    }

  private:
    Gate *gate_;
    bool left_;
};

// While it lives, the call is inside, but for what is Outside. Pre: `gate` may be null.
class Inside {
  public:
    explicit Inside(Gate *gate) noexcept
        : gate_(gate), allowed_(gate == nullptr || gate->enter()) {}
    Inside(const Inside &) = delete;
    Inside &operator=(const Inside &) = delete;
    ~Inside() {
        if (gate_ != nullptr)
            (void)gate_->leave();
    }

    // False: it may not come in.
    explicit operator bool() const noexcept { return allowed_; }

  private:
    Gate *gate_;
    bool allowed_;
};

} // namespace upm

#endif // UPM_BASE_GATE_HPP
