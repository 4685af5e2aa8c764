# shellcheck shell=bash
# Proves a restart by another boot id, and that it has helped.
main() {
    local before now answer
    if [[ ! -e $reboot_marker ]]; then
        say "no restart was needed: nothing to do"
        return
    fi
    before=$(cat "$reboot_marker")
    now=$(boot_id)
    [[ $before != "$now" ]] ||
        fail "the machine has not restarted: it is still in boot $before. Restart it by hand (\`sudo systemctl reboot\`), then start again"
    answer=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>&1) ||
        fail "the machine has restarted and its NVIDIA driver still does not work: ${answer##*$'\n'}. \`sudo dmesg | grep -i -e nvrm -e nvidia\` on the host shows why"
    rm "$reboot_marker"
    say "restarted (boot $before → $now), driver ${answer%%$'\n'*}"
}
