# shellcheck shell=bash
# Restarts the machine where `driver` asks for it. From here to the restart nobody can log in, so that whoever connects next
# meets the machine after it; a restart that does not come lets people in again.
main() {
    if [[ ! -e $reboot_marker || $(cat "$reboot_marker") != "$(boot_id)" ]]; then
        say "no restart is needed: nothing to do"
        return
    fi
    need_root "restarting the machine" "let an administrator run: sudo systemctl reboot"
    root systemd-run --on-active=180 systemctl start ssh.service
    root systemd-run --on-active=2 systemctl reboot
    root systemctl stop ssh.socket ssh.service || true
    say "restarting (this boot is $(boot_id))"
}
