# shellcheck shell=bash
# Starts the meter of a machine that costs money while it is awake. It powers the machine off when there is nothing to do,
# when its budget is spent, and when AWS takes it back; the disk stays. The dead-man switch of the machine's user data wants
# to see it tick.
program=/usr/local/sbin/retune-meter
unit=/etc/systemd/system/retune-meter.service

main() {
    local user
    user=$(id -un)
    need_root "starting the meter that powers the machine off" "start it from an image whose user may use sudo"
    {
        printf '#!/bin/bash\n# Written by Retune (infra/host/meter.sh).\n'
        printf 'home=%q\nidle_seconds=%d\nbudget_seconds=%q\n' \
            "$home" "$((RETUNE_IDLE_MINUTES * 60))" "$RETUNE_BUDGET_SECONDS"
        meter
    } | root tee "$program.new" >/dev/null
    root chmod 755 "$program.new"
    root mv "$program.new" "$program"
    root tee "$unit" >/dev/null <<END
[Unit]
Description=Powers the machine off when it has nothing to do
[Service]
ExecStart=/bin/bash $program
Restart=always
RestartSec=5
[Install]
WantedBy=multi-user.target
END
    root systemctl daemon-reload
    root systemctl enable retune-meter.service
    root systemctl restart retune-meter.service
    say "the meter runs: off after $RETUNE_IDLE_MINUTES idle minutes${RETUNE_BUDGET_SECONDS:+, or $RETUNE_BUDGET_SECONDS s in all} (runs of $user)"
}

meter() {
    cat <<'END'
state=/var/lib/retune-meter
alive=/run/retune-meter
metadata=${AWS_EC2_METADATA_SERVICE_ENDPOINT:-http://169.254.169.254}/latest
TICK=5
# Seconds in which somebody can come to an agreement with a machine whose budget is spent.
GRACE=600

uptime() {
    local seconds
    IFS=. read -r seconds _ </proc/uptime
    printf '%s' "$seconds"
}

# The run whose supervisor holds this lock. /proc/locks is asked: to try the lock would be to hold it.
held() {
    grep -q ":$(stat --format %i "$1") " /proc/locks
}

active() {
    local lock
    for lock in "$home"/runs/*/lock; do
        if [[ -e $lock ]] && held "$lock"; then printf '%s\n' "${lock%/lock}"; fi
    done
}

# What the stack's earlier machines were awake, in seconds of this one, as the client has said: the budget is for all.
elsewhere() {
    cat "$home/spent-elsewhere" 2>/dev/null || echo 0
}

# An established connection to port 22.
visited() {
    cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk '$4 == "01" && $2 ~ /:0016$/ { found = 1 } END { exit !found }'
}

# AWS says it two minutes before.
taken_back() {
    local token
    token=$(curl -sf -m 2 -X PUT -H "X-aws-ec2-metadata-token-ttl-seconds: 60" "$metadata/api/token") || return 1
    curl -sf -m 2 -o /dev/null -H "X-aws-ec2-metadata-token: $token" "$metadata/meta-data/spot/instance-action"
}

# off REASON SECONDS: asks what runs to save a checkpoint and stop, waits that long for it, and powers off.
off() {
    local run until
    printf '%s\n' "$1" | tee "$state/reason"
    active | while IFS= read -r run; do printf '%s\n' "$1" >"$run/stop"; done
    until=$(($(uptime) + $2))
    while [[ -n $(active) ]] && (($(uptime) < until)); do sleep 1; done
    systemctl poweroff
    exit 0
}

mkdir -p "$state"
# Seconds that it was awake before this start. The meter itself may be started again.
[[ -e $alive.base ]] || cat "$state/seconds" >"$alive.base" 2>/dev/null || echo 0 >"$alive.base"
base=$(cat "$alive.base")
last=$(uptime)
while :; do
    touch "$alive"
    now=$(uptime)
    echo "$((base + now))" >"$state/seconds.new" && mv "$state/seconds.new" "$state/seconds"
    if visited || [[ -n $(active) ]]; then last=$now; fi
    if taken_back; then
        off "AWS takes the machine back" 100
    elif [[ -n $budget_seconds ]] && (($(elsewhere) + base + now >= budget_seconds && now >= GRACE)); then
        off "the budget is spent" 600
    elif ((now - last >= idle_seconds)); then
        off "nothing to do" 0
    fi
    sleep "$TICK"
done
END
}
