# shellcheck shell=bash
# Waits for what a machine does by itself after its first start: cloud-init, and whoever has apt's locks.
limit=${RETUNE_WAIT_SECONDS:-1800}

busy() {
    local file inode
    for file in /var/lib/dpkg/lock-frontend /var/lib/dpkg/lock /var/lib/apt/lists/lock /var/cache/apt/archives/lock; do
        [[ -e $file ]] || continue
        inode=$(stat --format %i "$file")
        # /proc/locks can be read by everybody, the locks themselves by root alone.
        if grep -q ":$inode " /proc/locks; then
            printf '%s\n' "$file"
            return 0
        fi
    done
    return 1
}

main() {
    local code=0 waited=() file deadline=$((SECONDS + limit))
    if command -v cloud-init; then
        timeout "$limit" cloud-init status --wait || code=$?
        case $code in
            0) ;;
            2) waited+=("cloud-init ended with errors that it calls recoverable: \`cloud-init status --long\` on the host shows them") ;;
            124) fail "cloud-init is not done after $limit s: \`cloud-init status --long\` on the host shows what it waits for" ;;
            *) fail "cloud-init failed (exit code $code): \`cloud-init status --long\` on the host shows why. Mend the user data, or \`sudo cloud-init clean\` and restart the host" ;;
        esac
    fi
    if file=$(busy); then
        waited+=("waited for $file")
        while busy; do
            ((SECONDS < deadline)) || fail "$file is still locked after $limit s: \`sudo fuser -v $file\` on the host shows by whom"
            sleep 1
        done
    fi
    say "$(IFS=';' && printf '%s' "${waited[*]:-nothing to wait for}")"
}
