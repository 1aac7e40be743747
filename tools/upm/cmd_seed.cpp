// SPDX-License-Identifier: MIT
//
// upm seed: has the broker keep what a program loads, or what programs will load of a file,
// until it is dropped: so the first container shares as well.
#include "libupm/base/env.hpp"
#include "tools/common/errors.hpp"
#include "tools/common/files.hpp"
#include "tools/common/sizes.hpp"
#include "tools/common/table.hpp"
#include "tools/common/text.hpp"
#include "tools/upm/cli.hpp"
#include "tools/upm/launch.hpp"
#include "tools/upm/model/cdi.hpp"
#include "tools/upm/read/installed.hpp"
#include "tools/upm/seed_files.hpp"

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <fmt/format.h>
#include <string_view>
#include <sys/wait.h>
#include <unistd.h>
#include <upm/upm.hpp>
#include <vector>

namespace upm::tool::cli {

namespace {

constexpr std::size_t kMostListed = 256;

// Why no request about seeds can be served, in words.
std::string why(int error) {
    const Info found = upm::info();
    constexpr std::uint32_t kLoadsWhileReading = 2;
    switch (error) {
    case EOPNOTSUPP:
        if (std::string_view(found.backend) == "kmod")
            return "the backend is kmod, which keeps pages only as long as somebody maps them; "
                   "seeds are of the store (UPM_BACKEND=store)";
        if (found.load != kLoadsWhileReading)
            return fmt::format("nothing here shares on load: {}", printable(found.reason));
        return "the broker is older than this command, and knows no seeds: restart upmd";
    case EPERM:
        return "the broker allows no seeds (upmd --seeds)";
    case EDQUOT:
        return "this user has as many seeds as it may, or all of its share is in them: see upm "
               "seed --list, and --seeds in upmd(8)";
    case ECONNRESET:
    case ETIMEDOUT:
        return "the broker ended, or does not answer: what it kept ends with it";
    default:
        return std::strerror(error);
    }
}

bool is_no_broker(int error) {
    return error == ENOENT || error == ECONNREFUSED;
}

Json json_of(const SeedState &seed) {
    return {
        {"seed", seed.number},         {"user", seed.user},        {"domain", seed.domain},
        {"label", seed.label},         {"open", seed.open},        {"segments", seed.segments},
        {"kept_bytes", seed.kept},     {"used_bytes", seed.used},  {"budget_bytes", seed.budget},
        {"missed_bytes", seed.missed}, {"expire_s", seed.expire_s}};
}

int list(bool as_json) {
    start_no_service();
    std::vector<SeedState> seeds(kMostListed);
    const Result<SeedList> found = list_seeds(seeds);
    if (!found && !is_no_broker(found.error()))
        throw Failure("cannot list seeds: " + why(found.error()));
    seeds.resize(found ? found->count : 0);
    if (as_json) {
        Json all = Json::array();
        for (const SeedState &seed : seeds)
            all.push_back(json_of(seed));
        print(dump({{"command", "seed"},
                    {"broker", found.ok()},
                    {"uptime_s", found->uptime_s},
                    {"room_bytes", found->room},
                    {"seeds", all},
                    {"more", found->more}}) +
              "\n");
        return kSuccess;
    }
    if (!found) {
        print("no broker runs, so there is no seed\n");
        return kSuccess;
    }
    if (seeds.empty())
        print(fmt::format("no seed (the broker runs for {} s; seeds end with it)\n",
                          found->uptime_s));
    else {
        Table rows({{"SEED"},
                    {"USER"},
                    {"DOMAIN", Table::Align::kLeft},
                    {"KEPT"},
                    {"USED"},
                    {"BUDGET"},
                    {"MISSED"},
                    {"EXPIRES"},
                    {"OF", Table::Align::kLeft}});
        for (const SeedState &seed : seeds)
            rows.add({std::to_string(seed.number), std::to_string(seed.user),
                      printable(seed.domain), human_bytes(seed.kept), human_bytes(seed.used),
                      human_bytes(seed.budget), human_bytes(seed.missed),
                      seed.open            ? "open"
                      : seed.expire_s == 0 ? "never"
                                           : fmt::format("{} s", seed.expire_s),
                      printable(seed.label)});
        print(rows.text());
    }
    if (found->more != 0)
        print(fmt::format("and {} more\n", found->more));
    print(fmt::format("room for {} more of this user\n", human_bytes(found->room)));
    return kSuccess;
}

int drop(const std::vector<std::string> &words, bool as_json) {
    start_no_service();
    std::vector<std::uint64_t> numbers;
    for (const std::string &word : words) {
        const auto number = parse_integer<std::uint64_t>(word);
        if (!number || *number == 0)
            throw UsageError(fmt::format("--drop '{}': the number of a seed, as upm seed --list "
                                         "tells it",
                                         printable(word)));
        numbers.push_back(*number);
    }
    if (numbers.empty())
        numbers.push_back(0); // all
    SeedsDropped sum;
    int status = kSuccess;
    for (const std::uint64_t number : numbers) {
        const Result<SeedsDropped> dropped = drop_seed(number);
        if (dropped) {
            sum.bytes += dropped->bytes;
            sum.seeds += dropped->seeds;
        } else if (number != 0 || !is_no_broker(dropped.error())) {
            const int error = dropped.error();
            const std::string reason = error == EPERM ? "it is another user's"
                                       : is_no_broker(error) && number != 0
                                           ? "there is none of this user and domain"
                                           : why(error);
            complain("seed", number != 0 ? fmt::format("cannot drop seed {}: {}", number, reason)
                                         : "cannot drop seeds: " + reason);
            status = kFailure;
        }
    }
    if (as_json)
        print(dump({{"command", "seed"}, {"dropped", sum.seeds}, {"dropped_bytes", sum.bytes}}) +
              "\n");
    else if (status == kSuccess)
        print(fmt::format("{} dropped: {} are kept no more\n",
                          sum.seeds == 1 ? "1 seed" : fmt::format("{} seeds", sum.seeds),
                          human_bytes(sum.bytes)));
    return status;
}

// The key of a device of upm cdi becomes that of this process and its children.
void use_domain(const std::string &name) {
    if (!is_cdi_name(name))
        throw UsageError(fmt::format("--domain '{}' is no name of a device of upm cdi; a key goes "
                                     "into UPM_DOMAIN",
                                     printable(name)));
    const std::string path = fmt::format("{}/{}", kCdiFolder, cdi_file_name(name));
    if (::access(path.c_str(), F_OK) != 0 && errno == ENOENT)
        throw Failure(fmt::format("there is no {}: upm cdi generate --domain {}", path, name));
    const auto key = key_in_specification(read_file(path));
    if (!key)
        throw Failure(path + " is no specification of upm cdi");
    set_environment("UPM_DOMAIN", *key);
}

Seed begin(const SeedOptions &wish) {
    const Result<Seed> seed = begin_seed(wish);
    if (!seed)
        throw Failure("nothing can be kept: " + why(seed.error()));
    if (wish.budget > seed->room)
        complain("seed", fmt::format("of the budget of {}, this user's share has room for {} "
                                     "(--seeds in upmd(8))",
                                     human_bytes(wish.budget), human_bytes(seed->room)));
    return *seed;
}

// Ends it, and says what came of it. Returns the exit status.
int finish(const Seed &seed, const std::string &nothing, bool as_json) {
    const Result<SeedState> done = end_seed(seed.number);
    if (!done)
        throw Failure(done.error() == ENOENT ? "nothing is kept: the seed was dropped meanwhile"
                                             : "nothing is kept: " + why(done.error()));
    if (as_json)
        print(dump({{"command", "seed"}, {"seed", json_of(*done)}}) + "\n");
    if (done->missed != 0)
        complain("seed", fmt::format("no room for {}: {} of a budget of {} are kept", //
                                     human_bytes(done->missed), human_bytes(done->kept),
                                     human_bytes(done->budget)));
    if (done->kept == 0) {
        complain("seed", fmt::format("nothing is kept: {}", nothing));
        return kFailure;
    }
    if (!as_json)
        complain("seed", fmt::format("{} are kept as seed {} in {}; upm seed --drop {} lets go",
                                     human_bytes(done->kept), seed.number, printable(done->domain),
                                     seed.number));
    return done->missed != 0 ? kFailure : kSuccess;
}

pid_t child = -1; // whom signals are passed on to

void pass_signal_on(int number) {
    const int error = errno;
    (void)::kill(child, number);
    errno = error;
}

// The terminal sends its signals to both; others came to this process alone.
int wait_for_child() {
    struct sigaction action {};
    action.sa_handler = pass_signal_on;
    action.sa_flags = SA_RESTART;
    for (const int number : {SIGTERM, SIGHUP, SIGUSR1, SIGUSR2})
        (void)::sigaction(number, &action, nullptr);
    action.sa_handler = SIG_IGN;
    for (const int number : {SIGINT, SIGQUIT})
        (void)::sigaction(number, &action, nullptr);
    sigset_t none;
    (void)::sigemptyset(&none);
    (void)::sigprocmask(SIG_SETMASK, &none, nullptr);
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    constexpr int kBySignal = 128; // as with sh(1)
    return WIFEXITED(status) ? WEXITSTATUS(status) : kBySignal + WTERMSIG(status);
}

int run_seeded(const Arguments &command, const SeedOptions &wish, bool as_json) {
    const Seed seed = begin(wish);
    const std::string hook = find_hook();
    const char *const scope = env::scope.words[static_cast<std::size_t>(env::get(env::scope))];
    say_what_merges("seed", command.front(), scope);
    sigset_t all;
    sigset_t before;
    (void)::sigfillset(&all);
    (void)::sigprocmask(SIG_SETMASK, &all, &before);
    child = ::fork();
    if (child < 0)
        throw SystemError("start", command.front(), errno);
    if (child == 0) {
        (void)::sigprocmask(SIG_SETMASK, &before, nullptr);
        preload(hook, command.front());
        set_environment("UPM_SEED", seed.token);
        ::_exit(become("seed", command));
    }
    const int status = wait_for_child();
    const std::string ended =
        status != 0 ? fmt::format("ended with status {} and ", status) : std::string();
    const int kept = finish(seed,
                            fmt::format("the program {}read no file of 256 KiB or more into a "
                                        "large block (see UPM_VERBOSE=1), or did so in another "
                                        "domain (another user, container or UPM_DOMAIN)",
                                        ended),
                            as_json);
    return status != 0 ? status : kept;
}

cxxopts::Options make_options() {
    cxxopts::Options options(
        "upm seed", "Has the broker keep what a program loads, or what programs will load of\n"
                    "files, though nobody maps it: the first container shares it as well.\n");
    options.custom_help("[OPTION...] {FILE... | -- COMMAND... | --list | --drop [SEED...]}");
    options.add_options()("budget", "keep so many bytes at most (4096, 64K, 2M, 1G)",
                          cxxopts::value<std::string>(), "SIZE")(
        "expire", "let go so many seconds after the last use (default: never)",
        cxxopts::value<std::string>(),
        "S")("domain", "in the domain of this device of upm cdi (default: that of programs here)",
             cxxopts::value<std::string>(), "NAME")("whole", "take every FILE as a whole")(
        "at",
        "programs read a whole FILE to so many bytes behind a page's beginning (Python's "
        "bytes: 32)",
        cxxopts::value<std::string>(), "N")("list", "show the seeds")(
        "drop", "let go of these seeds, or of all of this user and domain")(
        "json", "print one JSON document on standard output")("h,help", "this text")(
        "words", "", cxxopts::value<std::vector<std::string>>());
    options.parse_positional({"words"});
    options.positional_help("");
    return options;
}

// 0: not given.
std::uint64_t number_of(const cxxopts::ParseResult &chosen, const char *name, std::uint64_t most) {
    return chosen.count(name) == 0
               ? 0
               : number_of_option(name, chosen[name].as<std::string>(), 0, most);
}

std::uint64_t budget_of(const cxxopts::ParseResult &chosen) {
    return chosen.count("budget") == 0
               ? 0
               : bytes_of_option("budget", chosen["budget"].as<std::string>(), 1);
}

} // namespace

int run_seed(const Arguments &arguments) {
    const auto dashes = std::find(arguments.begin(), arguments.end(), "--");
    const Arguments own(arguments.begin(), dashes);
    const Arguments command(dashes == arguments.end() ? dashes : dashes + 1, arguments.end());
    cxxopts::Options options = make_options();
    Common common;
    const cxxopts::ParseResult chosen = parse(options, own, common);
    if (common.help)
        return kSuccess;
    const std::vector<std::string> words = chosen.count("words") != 0
                                               ? chosen["words"].as<std::vector<std::string>>()
                                               : std::vector<std::string>{};
    const bool lists = chosen.count("list") != 0;
    const bool drops = chosen.count("drop") != 0;
    const bool runs = dashes != arguments.end();
    if (lists + drops + runs + (!drops && !words.empty()) != 1 || (runs && command.empty()))
        throw UsageError("say one of: upm seed FILE..., upm seed -- COMMAND..., upm seed --list, "
                         "upm seed --drop [SEED...]");
    if (chosen.count("domain") != 0)
        use_domain(chosen["domain"].as<std::string>());
    if (lists)
        return list(common.json);
    if (drops)
        return drop(words, common.json);

    const Arguments &subject = runs ? command : words;
    std::string label;
    for (const std::string &word : subject)
        label += (label.empty() ? "" : " ") + word;
    constexpr std::uint64_t kMostSeconds = 100'000'000;
    constexpr std::uint64_t kMostAt = 4095;
    const SeedOptions wish{
        .budget = budget_of(chosen),
        .expire_s = static_cast<std::uint32_t>(number_of(chosen, "expire", kMostSeconds)),
        .label = label};
    const FileOptions how{.whole = chosen.count("whole") != 0,
                          .at = number_of(chosen, "at", kMostAt)};
    if (runs)
        return run_seeded(command, wish, common.json);
    const std::vector<SeedFile> files = open_seed_files(words, how); // before anything is begun
    const Seed seed = begin(wish);
    const int status = load_seed_files(files, seed.number);
    const int kept = finish(seed, "nothing of these files could be loaded", common.json);
    return std::max(status, kept);
}

} // namespace upm::tool::cli
