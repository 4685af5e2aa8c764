# shellcheck shell=bash
# Turns off what upgrades the machine by itself: a driver whose programs are upgraded under the loaded kernel module does
# not work until a restart.
timers=(apt-daily.timer apt-daily-upgrade.timer)
service=unattended-upgrades.service
periodic=/etc/apt/apt.conf.d/99retune
content='APT::Periodic::Enable "0";'

is() {
    [[ $(systemctl "$1" "$2" 2>/dev/null || true) == "$3" ]]
}

main() {
    local unit changes=()
    [[ $RETUNE_GPU == required ]] || { say "no driver here that an upgrade could break: nothing to do"; return; }
    if [[ -d /run/systemd/system ]]; then
        for unit in "${timers[@]}"; do is is-enabled "$unit" masked || changes+=("$unit"); done
        if is is-enabled "$service" enabled || is is-active "$service" active; then changes+=("$service"); fi
    fi
    if [[ -d ${periodic%/*} && $(cat "$periodic" 2>/dev/null || true) != "$content" ]]; then changes+=("$periodic"); fi
    if ((${#changes[@]} == 0)); then
        say "automatic upgrades are off: nothing to do"
        return
    fi
    need_root "turning automatic upgrades off (${changes[*]})" \
        "let an administrator run: sudo systemctl mask --now ${timers[*]}; sudo systemctl disable --now $service; echo '$content' | sudo tee $periodic"
    for unit in "${changes[@]}"; do
        case $unit in
            *.timer) root systemctl mask --now "$unit" ;;
            *.service) root systemctl disable --now "$unit" ;;
            *) printf '%s\n' "$content" | root tee "$periodic" ;;
        esac
    done
    say "turned automatic upgrades off: ${changes[*]}"
}
