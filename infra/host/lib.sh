# shellcheck shell=bash
# What every script here begins with. The scripts are sent to `bash -s`: nothing is in a list of processes, and a text
# that was cut off on its way does nothing, since `perform` is its last line.
# - one at a time, and the connection may go: what has begun ends
# - all output is in a log on the host, with times; the client gets one line, or the reason of a failure
# - root only through `sudo -n`, and only where something must change
set -Eeuo pipefail
export LC_ALL=C.UTF-8

home=${RETUNE_HOME:-.retune}
[[ $home == /* ]] || home=$HOME/$home
prepare=$home/prepare
log=$home/logs/prepare/$STEP.log
# What `driver` leaves for `reboot`: the boot that has to end.
# shellcheck disable=SC2034
reboot_marker=$prepare/reboot-required
EXPECTED=64

say() {
    printf '%s: %s\n' "$STEP" "$1" >&3 || true
    printf '%s\n' "$1"
}

fail() {
    printf '%s: %s\n' "$STEP" "$1" >&4 || true
    printf '%s\n' "$1"
    exit "$EXPECTED"
}

root() {
    if ((EUID == 0)); then "$@"; else sudo -n "$@"; fi
}

# need_root "what it is needed for" "what an administrator can do instead"
need_root() {
    local user answer
    ((EUID != 0)) || return 0
    user=$(id -un)
    answer=$(sudo -n true 2>&1) && return 0
    fail "$1 needs root, and \`sudo -n\` refuses it to $user (${answer##*$'\n'}). Allow it with \"$user ALL=(root) NOPASSWD: ALL\" in /etc/sudoers.d/retune, or $2"
}

apt() {
    root env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=a \
        apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -y --no-install-recommends "$@"
}

# at_least 580.95.05 525.60.13
at_least() {
    [[ $(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1) == "$2" ]]
}

boot_id() {
    cat /proc/sys/kernel/random/boot_id
}

# Whole or not at all.
write() {
    cat >"$1.partial"
    mv "$1.partial" "$1"
}

stamp() {
    local line
    export TZ=UTC
    while IFS= read -r line || [[ -n $line ]]; do printf '%(%FT%TZ)T %s\n' -1 "$line"; done
}

perform() {
    local code
    mkdir -p "$prepare" "${log%/*}"
    exec 3>&1 4>&2
    exec 9>"$prepare/lock"
    if ! flock --timeout "${RETUNE_WAIT_SECONDS:-1800}" 9; then
        printf '%s: another preparation of this host does not end; see %s\n' "$STEP" "${log%/*}" >&4
        exit 1
    fi
    trap '' HUP PIPE
    set +e
    (
        set -e
        trap 'printf "%s: exit code %d\n" "$BASH_COMMAND" "$?" >&2' ERR
        main
    ) 2>&1 </dev/null 9>&- | stamp >>"$log"
    code=${PIPESTATUS[0]}
    if ((code != 0 && code != EXPECTED)); then
        {
            printf '%s: failed with exit code %d. The last lines of %s on the host:\n' "$STEP" "$code" "$log"
            tail -n 15 "$log" | sed 's/^/    /'
        } >&4
    fi
    exit "$code"
}
