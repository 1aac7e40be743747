# SPDX-License-Identifier: MIT
#
# Completion of upm-runc for fish. Its command line is that of the runtime that it becomes, so
# the runtime is asked: commands and options are what its --help lists.
function __upm_runc_commands
    set -l line (commandline -opc)
    $line[1] --help 2>/dev/null | sed -nE \
        '/^COMMANDS:/,/^$/ s/^[[:space:]]+([a-z][a-z-]*)(, [a-z])?[[:space:]]+(- )?(.*)/\1\t\4/p'
end

function __upm_runc_command
    set -l known (__upm_runc_commands | string split -f 1 \t)
    for word in (commandline -opc)[2..-1]
        if contains -- $word $known
            echo $word
            return
        end
    end
    return 1
end

function __upm_runc_options
    set -l line (commandline -opc)
    $line[1] (__upm_runc_command) --help 2>/dev/null |
        sed -nE 's/^[[:space:]]+(-.,? +)?(--[a-z][a-z-]*).*/\2/p'
end

complete -c upm-runc -n 'not __upm_runc_command' -f -a '(__upm_runc_commands)'
complete -c upm-runc -a '(__upm_runc_options)'
