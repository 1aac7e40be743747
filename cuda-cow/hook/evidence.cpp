// SPDX-License-Identifier: MIT
#include "cuda-cow/hook/evidence.hpp"

#include <algorithm>
#include <cstdlib>
#include <cxxabi.h>
#include <memory>
#include <regex>

namespace upm::cuda::hook {

namespace {

std::string_view trim(std::string_view text) {
    const std::size_t first = text.find_first_not_of(" \t\r\n");
    if (first == std::string_view::npos)
        return {};
    return text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1);
}

// Parts between commas that are in no bracket.
std::vector<std::string_view> split(std::string_view list) {
    std::vector<std::string_view> parts;
    int depth = 0;
    std::size_t start = 0;
    for (std::size_t i = 0; i < list.size(); ++i) {
        const char c = list[i];
        depth += c == '(' || c == '<' || c == '[' || c == '{' ? 1 : 0;
        depth -= c == ')' || c == '>' || c == ']' || c == '}' ? 1 : 0;
        if (c == ',' && depth == 0) {
            parts.push_back(trim(list.substr(start, i - start)));
            start = i + 1;
        }
    }
    if (const std::string_view last = trim(list.substr(start)); !last.empty())
        parts.push_back(last);
    return parts;
}

bool is_scalar(std::string_view type) {
    static constexpr std::string_view kScalars[] = {
        "bool",   "char",          "signed char", "unsigned char",      "short",
        "int",    "unsigned int",  "long",        "unsigned short",     "float",
        "double", "unsigned long", "long long",   "unsigned long long", "__half",
    };
    return std::find(std::begin(kScalars), std::end(kScalars), type) != std::end(kScalars);
}

Use use_of_type(std::string_view type) {
    if (is_scalar(type))
        return Use::kRead;
    if (!type.ends_with('*'))
        return Use::kUnproven;
    return trim(type.substr(0, type.size() - 1)).ends_with(" const") ? Use::kRead : Use::kUnproven;
}

// Bits of Kernel::taint: parameters 0 to 62, and values that came from memory.
constexpr std::uint64_t kFromMemory = std::uint64_t{1} << 63;
constexpr std::size_t kMaxTracked = 63;

class Kernel {
  public:
    Kernel(std::string_view parameters, std::string_view body) {
        for (const std::string_view parameter : split(parameters)) {
            std::string_view name = parameter.substr(parameter.find_last_of(" \t\n") + 1);
            names_.emplace_back(name.substr(0, name.find('[')));
        }
        for (std::size_t start = 0; start < body.size();) {
            const std::size_t end = std::min(body.find(';', start), body.size());
            add(trim(body.substr(start, end - start)));
            start = end + 1;
        }
    }

    std::vector<Use> uses() {
        std::vector<Use> result(names_.size(), Use::kUnproven);
        if (names_.size() > kMaxTracked)
            return result;
        do {
            changed_ = false;
            for (const Instruction &instruction : instructions_)
                follow(instruction);
        } while (changed_);
        for (std::size_t i = 0; i < names_.size(); ++i)
            result[i] = (written_ >> i & 1) != 0 ? Use::kWritten
                        : opaque_                ? Use::kUnproven
                                                 : Use::kRead;
        return result;
    }

  private:
    struct Instruction {
        std::string operation;
        std::vector<std::string> operands;
    };

    // Labels, braces, directives and predicates in front of it are left out.
    void add(std::string_view statement) {
        for (;;) {
            const std::size_t end = statement.find_first_of(" \t\n");
            const std::string_view word = statement.substr(0, end);
            if (word.empty() || word.starts_with('.'))
                return;
            const bool prefix = word.starts_with('@') || word == "{" || word == "}" ||
                                word.ends_with(':') || word.starts_with("//");
            if (!prefix)
                break;
            if (end == std::string_view::npos)
                return;
            const std::size_t skip = word.starts_with("//") ? statement.find('\n') : end;
            if (skip == std::string_view::npos)
                return;
            statement = trim(statement.substr(skip));
        }
        const std::size_t end = statement.find_first_of(" \t");
        Instruction made{.operation = std::string(statement.substr(0, end)), .operands = {}};
        if (end != std::string_view::npos)
            for (const std::string_view operand : split(statement.substr(end)))
                made.operands.emplace_back(operand);
        instructions_.push_back(std::move(made));
    }

    // %p1 decides which address it is, but is no part of it.
    static bool is_predicate(const std::string &name) {
        return name[1] == 'p' && name[2] >= '0' && name[2] <= '9';
    }

    static std::vector<std::string> registers(const std::string &operand) {
        static const std::regex pattern("%[A-Za-z]+[0-9]+");
        std::vector<std::string> found;
        for (auto at = std::sregex_iterator(operand.begin(), operand.end(), pattern);
             at != std::sregex_iterator(); ++at)
            if (const std::string name = at->str(); !is_predicate(name))
                found.push_back(name);
        return found;
    }

    [[nodiscard]] std::uint64_t taint(const std::string &operand) const {
        std::uint64_t sum = 0;
        for (const std::string &name : registers(operand))
            if (const auto found = taint_.find(name); found != taint_.end())
                sum |= found->second;
        for (std::size_t i = 0; i < names_.size(); ++i)
            if (mentions(operand, names_[i]))
                sum |= std::uint64_t{1} << i;
        return sum;
    }

    // foo_param_1 is no mention of foo_param_10.
    static bool mentions(const std::string &operand, const std::string &name) {
        for (std::size_t at = operand.find(name); at != std::string::npos;
             at = operand.find(name, at + 1)) {
            const std::size_t end = at + name.size();
            if (end == operand.size() ||
                std::string_view("],+ ").find(operand[end]) != std::string_view::npos)
                return true;
        }
        return false;
    }

    static bool starts(const std::string &text, std::string_view with) {
        return text.starts_with(with);
    }

    // Where the target of a store is: only global and generic addresses matter.
    static bool to_private_space(const std::string &operation) {
        const std::size_t global = operation.find(".global");
        std::size_t other = std::string::npos;
        for (const char *space : {".shared", ".local", ".param"})
            other = std::min(other, operation.find(space));
        return other < global;
    }

    void store(const std::string &target) {
        const std::uint64_t bits = taint(target);
        const std::uint64_t now = written_ | (bits & ~kFromMemory);
        const bool opaque = opaque_ || bits == 0 || (bits & kFromMemory) != 0;
        changed_ = changed_ || now != written_ || opaque != opaque_;
        written_ = now;
        opaque_ = opaque;
    }

    void follow(const Instruction &instruction) {
        const std::string &operation = instruction.operation;
        const auto &operands = instruction.operands;
        if (starts(operation, "call")) {
            changed_ = changed_ || !opaque_;
            opaque_ = true;
        }
        if (operands.empty())
            return;
        const bool plain = starts(operation, "st.") || starts(operation, "red.") ||
                           starts(operation, "cp.") || starts(operation, "multimem.") ||
                           starts(operation, "sust.") || starts(operation, "discard.");
        const bool atomic = starts(operation, "atom.");
        if ((plain || atomic) && !to_private_space(operation) &&
            !starts(operation, "cp.async.wait"))
            for (const std::string &operand : operands)
                if (operand.starts_with('[')) {
                    store(operand);
                    break;
                }
        if (plain)
            return;
        std::uint64_t from = 0;
        for (std::size_t i = 1; i < operands.size(); ++i)
            from |= taint(operands[i]);
        const bool loads = starts(operation, "ld.") || starts(operation, "ldu.") || atomic;
        if (loads && !starts(operation, "ld.param"))
            from = kFromMemory; // the value, not the address that it came from
        for (const std::string &name : registers(operands[0])) {
            std::uint64_t &to = taint_[name];
            changed_ = changed_ || (to | from) != to;
            to |= from;
        }
    }

    std::vector<std::string> names_;
    std::vector<Instruction> instructions_;
    std::map<std::string, std::uint64_t> taint_;
    std::uint64_t written_ = 0;
    bool opaque_ = false;
    bool changed_ = false;
};

} // namespace

std::vector<Use> uses_from_name(const char *mangled) {
    int status = 0;
    const std::unique_ptr<char, void (*)(void *)> text(
        abi::__cxa_demangle(mangled, nullptr, nullptr, &status), std::free);
    if (status != 0 || text == nullptr)
        return {};
    std::string_view name = text.get();
    if (!name.ends_with(')'))
        return {};
    // The parameter list is the last bracket that closes at the end.
    int depth = 0;
    std::size_t open = name.size();
    while (open-- > 0) {
        depth += name[open] == ')' ? 1 : 0;
        depth -= name[open] == '(' ? 1 : 0;
        if (depth == 0)
            break;
    }
    std::vector<Use> uses;
    for (const std::string_view type : split(name.substr(open + 1, name.size() - open - 2)))
        if (type != "void")
            uses.push_back(use_of_type(type));
    return uses;
}

std::vector<Use> common(const std::vector<Use> &one, const std::vector<Use> &other) {
    std::vector<Use> both(std::max(one.size(), other.size()), Use::kUnproven);
    for (std::size_t i = 0; i < both.size(); ++i) {
        const Use first = i < one.size() ? one[i] : Use::kUnproven;
        const Use second = i < other.size() ? other[i] : Use::kUnproven;
        if (first == Use::kWritten || second == Use::kWritten)
            both[i] = Use::kWritten;
        else if (first == second)
            both[i] = first;
    }
    return both;
}

std::map<std::string, std::vector<Use>> uses_from_ptx(std::string_view ptx) {
    std::map<std::string, std::vector<Use>> kernels;
    for (std::size_t at = ptx.find(".entry"); at != std::string_view::npos;
         at = ptx.find(".entry", at + 1)) {
        const std::size_t open = ptx.find_first_of("({", at);
        const std::size_t body = ptx.find('{', at);
        if (open == std::string_view::npos || body == std::string_view::npos)
            break;
        const std::size_t close = ptx[open] == '(' ? ptx.find(')', open) : open;
        int depth = 0;
        std::size_t end = body;
        for (; end < ptx.size(); ++end) {
            depth += ptx[end] == '{' ? 1 : 0;
            depth -= ptx[end] == '}' ? 1 : 0;
            if (depth == 0)
                break;
        }
        const std::string name(trim(ptx.substr(at + 6, open - at - 6)));
        const std::string_view parameters =
            close > open ? ptx.substr(open + 1, close - open - 1) : std::string_view();
        kernels[name] = Kernel(parameters, ptx.substr(body + 1, end - body - 1)).uses();
    }
    return kernels;
}

} // namespace upm::cuda::hook
