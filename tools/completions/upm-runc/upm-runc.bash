# SPDX-License-Identifier: MIT
#
# Completion of upm-runc for bash. Its command line is that of the runtime that it becomes, so
# the runtime is asked: commands and options are what its --help lists.
_upm_runc() {
    local program=${COMP_WORDS[0]} word=${COMP_WORDS[COMP_CWORD]} commands command='' text i
    COMPREPLY=()
    commands=$("$program" --help 2>/dev/null |
        sed -nE '/^COMMANDS:/,/^$/ s/^[[:space:]]+([a-z][a-z-]*).*/\1/p')
    for ((i = 1; i < COMP_CWORD; i++)); do
        if [[ -z $command && $'\n'$commands$'\n' == *$'\n'"${COMP_WORDS[i]}"$'\n'* ]]; then
            command=${COMP_WORDS[i]}
        fi
    done
    text=$("$program" ${command:+"$command"} --help 2>/dev/null |
        sed -nE 's/^[[:space:]]+(-.,? +)?(--[a-z][a-z-]*).*/\2/p')
    [[ -n $command ]] || text+=$'\n'$commands
    mapfile -t COMPREPLY < <(compgen -W "$text" -- "$word")
    if [[ ${#COMPREPLY[@]} -eq 0 || -n $command && $word != -* ]]; then
        mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "$word")
    fi
}
complete -o filenames -F _upm_runc upm-runc
