// SPDX-License-Identifier: MIT
//
// A process that shares GPU memory, told what to do line by line on standard input;
// one line of answer each, "ok …" or "error ERRNO TEXT". The driver, its faults and
// the broker come from the environment.
//
//   open                        the runtime (also done by the first other command)
//   allocate BYTES EXTENT       one buffer, replacing the last
//   fill SEED                   a pattern, by copies from the host
//   check SEED                  "ok same" or "ok different"
//   advise                      "ok MERGED PUBLISHED ALREADY REFUSED DIFFERENT"
//   manifest | attach TEXT      line ends written as ';'
//   write OFFSET LENGTH VALUE   will_write, then cuMemsetD8
//   missed OFFSET               a kernel stores there with no will_write
//   refused OFFSET              the same by cuMemsetD8
//   randomly SEED ROUNDS        random writes, checked against a model in host memory
//   stats                       "ok SHARED COPIES ROLLED_BACK"
//   memory                      "ok PSS_KIB" of device memory, from smaps
//   configure WORDS             of the fake
//   free
#include "cuda-cow/measure/probes.hpp"
#include "tests/cuda-cow/support.hpp"

#include "cuda-cow/core/runtime.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iostream>
#include <random>
#include <sstream>

namespace upm::cuda::test {

namespace {

std::string failed(int error) {
    return "error " + std::to_string(error) + " " + last_error();
}

class Actor {
  public:
    std::string run(const std::string &line) {
        std::istringstream in(line);
        std::string command;
        in >> command;
        if (command == "configure") {
            std::string words;
            std::getline(in, words);
            configure(words);
            return "ok";
        }
        if (!opened_) {
            Result<Runtime> opened = Runtime::open();
            if (!opened)
                return failed(opened.error());
            runtime_ = std::move(*opened);
            opened_ = true;
        }
        for (const auto &[name, function] : kCommands)
            if (command == name)
                return (this->*function)(in);
        return "error 22 unknown command " + command;
    }

  private:
    using Command = std::string (Actor::*)(std::istringstream &);

    std::string open(std::istringstream &) { return "ok"; }

    std::string allocate(std::istringstream &in) {
        std::size_t bytes = 0;
        std::size_t extent = 0;
        in >> bytes >> extent;
        buffer_ = Buffer();
        Result<Buffer> made =
            Buffer::allocate(runtime_, bytes, {.extent_bytes = extent, .name = "actor"});
        if (!made)
            return failed(made.error());
        buffer_ = std::move(*made);
        return "ok";
    }

    std::string fill(std::istringstream &in) {
        unsigned seed = 0;
        in >> seed;
        store(runtime_, buffer_.address(), pattern(buffer_.size(), seed));
        return "ok";
    }

    std::string check(std::istringstream &in) {
        unsigned seed = 0;
        in >> seed;
        const bool same =
            load(runtime_, buffer_.address(), buffer_.size()) == pattern(buffer_.size(), seed);
        return same ? "ok same" : "ok different";
    }

    std::string advise(std::istringstream &) {
        const Result<AdviseCounts> done = buffer_.advise();
        if (!done)
            return failed(done.error());
        std::ostringstream text;
        text << "ok " << done->merged << ' ' << done->published << ' ' << done->already << ' '
             << done->refused << ' ' << done->different;
        return text.str();
    }

    std::string manifest(std::istringstream &) {
        const Result<Manifest> made = buffer_.manifest();
        if (!made)
            return failed(made.error());
        std::string text = made->serialize();
        std::replace(text.begin(), text.end(), '\n', ';');
        return "ok " + text;
    }

    std::string attach(std::istringstream &in) {
        std::string text;
        std::getline(in, text);
        std::replace(text.begin(), text.end(), ';', '\n');
        const Result<Manifest> parsed = Manifest::parse(text);
        if (!parsed)
            return failed(parsed.error());
        Result<Buffer> made = Buffer::attach(runtime_, *parsed, {.name = "attached"});
        if (!made)
            return failed(made.error());
        buffer_ = std::move(*made);
        return "ok";
    }

    std::string write(std::istringstream &in) {
        std::size_t offset = 0;
        std::size_t length = 0;
        unsigned value = 0;
        in >> offset >> length >> value;
        const Result<Address> at = buffer_.write_ptr(offset, length);
        if (!at)
            return failed(at.error());
        store(runtime_, *at, std::vector<unsigned char>(length, static_cast<unsigned char>(value)));
        return "ok";
    }

    std::string missed(std::istringstream &in) {
        std::size_t offset = 0;
        in >> offset;
        const CurrentContext current(*runtime_.shared());
        const DriverApi &api = runtime_.shared()->api;
        const measure::Probes probes(api);
        abi::Status status = probes.store(buffer_.address() + offset);
        if (status == abi::kSuccess)
            status = api.ctx_synchronize();
        return answer(api, status);
    }

    std::string refused(std::istringstream &in) {
        std::size_t offset = 0;
        in >> offset;
        const CurrentContext current(*runtime_.shared());
        const DriverApi &api = runtime_.shared()->api;
        return answer(api, api.memset_d8(buffer_.address() + offset, 0xee, 16));
    }

    static std::string answer(const DriverApi &api, abi::Status status) {
        return status == abi::kSuccess
                   ? "ok"
                   : "error " + std::to_string(error_of(status)) + " " + status_text(api, status);
    }

    // Writes, advises and looks, in random order; the model says what must be read.
    std::string randomly(std::istringstream &in) {
        unsigned seed = 0;
        unsigned rounds = 0;
        in >> seed >> rounds;
        std::mt19937 random(seed);
        std::vector<unsigned char> model = load(runtime_, buffer_.address(), buffer_.size());
        for (unsigned round = 0; round < rounds; ++round) {
            const std::size_t offset = random() % buffer_.size();
            const std::size_t length =
                1 + random() % std::min<std::size_t>(buffer_.size() - offset, kUnit * 2);
            if (random() % 4 == 0) {
                if (const Result<AdviseCounts> done = buffer_.advise(); !done)
                    return failed(done.error());
            } else {
                // Few values, so that written extents become equal again and merge.
                const std::vector<unsigned char> bytes(length,
                                                       static_cast<unsigned char>(random() % 3));
                const Result<Address> at = buffer_.write_ptr(offset, length);
                if (!at)
                    return failed(at.error());
                store(runtime_, *at, bytes);
                std::copy(bytes.begin(), bytes.end(),
                          model.begin() + static_cast<std::ptrdiff_t>(offset));
            }
            if (load(runtime_, buffer_.address(), buffer_.size()) != model)
                return "ok different in round " + std::to_string(round);
        }
        return "ok same";
    }

    std::string stats(std::istringstream &) {
        const BufferStats now = buffer_.stats();
        return "ok " + std::to_string(now.shared) + " " + std::to_string(now.copies) + " " +
               std::to_string(now.rolled_back);
    }

    // The library's own scratch memory is left out: only the buffer's addresses.
    std::string memory(std::istringstream &) {
        std::ifstream smaps("/proc/self/smaps");
        bool inside = false;
        unsigned long sum = 0;
        for (std::string line; std::getline(smaps, line);) {
            unsigned long start = 0;
            unsigned long end = 0;
            unsigned long kib = 0;
            if (std::sscanf(line.c_str(), "%lx-%lx ", &start, &end) == 2)
                inside = start >= buffer_.address() && start < buffer_.address() + buffer_.size();
            else if (inside && std::sscanf(line.c_str(), "Pss: %lu kB", &kib) == 1)
                sum += kib;
        }
        return "ok " + std::to_string(sum);
    }

    std::string free(std::istringstream &) {
        buffer_ = Buffer();
        return "ok";
    }

    static constexpr std::pair<const char *, Command> kCommands[] = {
        {"open", &Actor::open},         {"allocate", &Actor::allocate},
        {"fill", &Actor::fill},         {"check", &Actor::check},
        {"advise", &Actor::advise},     {"manifest", &Actor::manifest},
        {"attach", &Actor::attach},     {"write", &Actor::write},
        {"missed", &Actor::missed},     {"refused", &Actor::refused},
        {"randomly", &Actor::randomly}, {"stats", &Actor::stats},
        {"memory", &Actor::memory},     {"free", &Actor::free},
    };

    bool opened_ = false;
    Runtime runtime_;
    Buffer buffer_;
};

} // namespace

} // namespace upm::cuda::test

int main() {
    upm::cuda::test::Actor actor;
    for (std::string line; std::getline(std::cin, line);) {
        std::string answer;
        try {
            answer = actor.run(line);
        } catch (const std::exception &error) {
            answer = std::string("error 5 ") + error.what();
        }
        std::cout << answer << std::endl;
    }
    return 0;
}
