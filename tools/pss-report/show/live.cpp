// SPDX-License-Identifier: MIT
//
// The live view on a terminal, by ncurses. A thread of its own looks at /proc, so that
// keys work while it does: thousands of processes take seconds.
#include "tools/pss-report/show/live.hpp"

#include "tools/common/errors.hpp"
#include "tools/common/text.hpp"

#include <chrono>
#include <clocale>
#include <condition_variable>
#include <csignal>
#include <exception>
#include <langinfo.h>
#include <memory>
#include <mutex>
#include <thread>

#define NCURSES_NOMACROS   // NOLINT(readability-identifier-naming)
#define NCURSES_WIDECHAR 1 // NOLINT(readability-identifier-naming)
#include <curses.h>

namespace upm::tool::pss {

namespace {

constexpr int kWaitMs = 100; // for a key, before asking for a new snapshot

volatile std::sig_atomic_t interrupted = 0;

class Sampler {
  public:
    Sampler(const Look &look, const Top &top)
        : look_(look), mappings_(top.mappings()), seconds_(top.seconds()),
          thread_([this](const std::stop_token &stop) { run(stop); }) {}

    // Null until there is one. Throws what collecting threw.
    std::shared_ptr<const Snapshot> latest() {
        const std::lock_guard lock(mutex_);
        if (failure_)
            std::rethrow_exception(failure_);
        return latest_;
    }

    void want(const Top &top) {
        const std::lock_guard lock(mutex_);
        // A change of what is read, or the end of a pause, shows at once.
        now_ = now_ || mappings_ != top.mappings() || (paused_ && !top.paused());
        mappings_ = top.mappings();
        paused_ = top.paused();
        seconds_ = top.seconds();
        changed_.notify_all();
    }

  private:
    void run(const std::stop_token &stop) {
        try {
            while (!stop.stop_requested()) {
                const auto started = std::chrono::steady_clock::now();
                auto snapshot = std::make_shared<Snapshot>(look_(mappings()));
                std::unique_lock lock(mutex_);
                latest_ = std::move(snapshot);
                wait(lock, stop, started);
            }
        } catch (...) {
            const std::lock_guard lock(mutex_);
            failure_ = std::current_exception();
        }
    }

    bool mappings() {
        const std::lock_guard lock(mutex_);
        now_ = false;
        return mappings_;
    }

    // Until the next look is due.
    void wait(std::unique_lock<std::mutex> &lock, const std::stop_token &stop,
              std::chrono::steady_clock::time_point started) {
        const auto due = [&] {
            return now_ || (!paused_ && std::chrono::steady_clock::now() >=
                                            started + std::chrono::duration<double>(seconds_));
        };
        while (!due() && !stop.stop_requested())
            changed_.wait_for(lock, stop, std::chrono::milliseconds(kWaitMs), due);
    }

    const Look &look_;
    std::mutex mutex_; // guards what follows
    std::condition_variable_any changed_;
    std::shared_ptr<const Snapshot> latest_;
    std::exception_ptr failure_;
    bool mappings_;
    bool paused_ = false;
    bool now_ = false;
    double seconds_;
    std::jthread thread_; // last: starts when the rest is there
};

// The terminal, its old self again at the end.
class Terminal {
  public:
    explicit Terminal(bool color) {
        (void)std::setlocale(LC_CTYPE, "");
        utf8_ = std::string_view(::nl_langinfo(CODESET)) == "UTF-8";
        screen_ = ::newterm(nullptr, stdout, stdin);
        if (screen_ == nullptr)
            throw Failure("the live view needs a terminal that TERM names and terminfo knows");
        ::set_escdelay(25);
        ::cbreak(), ::noecho(), ::nonl(), ::curs_set(0);
        // ncurses would end the process below the other thread.
        (void)std::signal(SIGINT, [](int) { interrupted = 1; });
        ::keypad(::stdscr, TRUE);
        ::wtimeout(::stdscr, kWaitMs);
        if (color && ::has_colors()) {
            ::start_color(), ::use_default_colors();
            ::init_pair(1, COLOR_GREEN, -1);
            colors_ = true;
        }
    }
    Terminal(const Terminal &) = delete;
    Terminal &operator=(const Terminal &) = delete;
    ~Terminal() {
        ::endwin();
        ::delscreen(screen_);
    }

    [[nodiscard]] static std::size_t width() { return static_cast<std::size_t>(COLS); }
    [[nodiscard]] static std::size_t height() { return static_cast<std::size_t>(LINES); }

    void draw(const std::vector<TopLine> &lines) const {
        ::werase(::stdscr);
        for (std::size_t i = 0; i < lines.size(); ++i) {
            const attr_t look = attributes(lines[i].look);
            std::string text = lines[i].text;
            if (lines[i].look == TopLine::Look::kTitle || lines[i].look == TopLine::Look::kKeys)
                text.append(width() - std::min(width(), display_width(text)), ' ');
            ::wattr_on(::stdscr, look, nullptr);
            ::mvwaddstr(::stdscr, static_cast<int>(i), 0, (utf8_ ? text : ascii(text)).c_str());
            ::wattr_off(::stdscr, look, nullptr);
        }
        ::wrefresh(::stdscr);
    }

    // 0: none within kWaitMs.
    [[nodiscard]] static char32_t key() {
        wint_t c = 0;
        const int kind = ::wget_wch(::stdscr, &c);
        if (kind == OK && (c == '\r' || c == '\n'))
            return kKeyEnter;
        if (kind == OK && (c == 0x7f || c == '\b'))
            return kKeyBackspace;
        if (kind == OK)
            return c == 0x1b ? char32_t{kKeyEscape} : static_cast<char32_t>(c);
        return kind == KEY_CODE_YES ? special(c) : 0;
    }

  private:
    static char32_t special(wint_t code) {
        switch (code) {
        case KEY_UP:
            return kKeyUp;
        case KEY_DOWN:
            return kKeyDown;
        case KEY_LEFT:
            return kKeyLeft;
        case KEY_RIGHT:
            return kKeyRight;
        case KEY_PPAGE:
            return kKeyPageUp;
        case KEY_NPAGE:
            return kKeyPageDown;
        case KEY_HOME:
            return kKeyHome;
        case KEY_END:
            return kKeyEnd;
        case KEY_BACKSPACE:
            return kKeyBackspace;
        case KEY_ENTER:
            return kKeyEnter;
        default:
            return 0; // KEY_RESIZE among them: the next drawing has the new size
        }
    }

    [[nodiscard]] attr_t attributes(TopLine::Look look) const {
        switch (look) {
        case TopLine::Look::kBold:
            return A_BOLD;
        case TopLine::Look::kDim:
            return A_DIM;
        case TopLine::Look::kTitle:
            return A_REVERSE | A_BOLD;
        case TopLine::Look::kKeys:
            return A_REVERSE;
        case TopLine::Look::kGood:
            return colors_ ? static_cast<attr_t>(COLOR_PAIR(1)) : A_NORMAL;
        case TopLine::Look::kPlain:
            break;
        }
        return A_NORMAL;
    }

    // For terminals that know no other characters.
    static std::string ascii(const std::string &text) {
        std::string out;
        for (const char c : text) {
            const auto byte = static_cast<unsigned char>(c);
            if (byte < 0x80)
                out += c;
            else if ((byte & 0xc0U) != 0x80U)
                out += '?';
        }
        return out;
    }

    SCREEN *screen_;
    bool utf8_;
    bool colors_ = false;
};

} // namespace

void watch_live(const Look &look, const TopOptions &options, bool color) {
    Top top(options);
    const Terminal terminal(color);
    Sampler sampler(look, top);
    terminal.draw({{"reading /proc ...", TopLine::Look::kPlain}});
    std::shared_ptr<const Snapshot> shown;
    std::pair<std::size_t, std::size_t> size;
    while (interrupted == 0) {
        const char32_t key = Terminal::key();
        if (key != 0 && !top.key(key))
            break;
        sampler.want(top);
        const std::shared_ptr<const Snapshot> latest = sampler.latest();
        const std::pair now(Terminal::width(), Terminal::height());
        if (latest && (key != 0 || latest != shown || now != size))
            terminal.draw(top.screen(*latest, now.first, now.second));
        shown = latest;
        size = now;
    }
}

} // namespace upm::tool::pss
