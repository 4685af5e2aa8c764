/** Seconds after a start within which the meter has to work. */
const DEAD_MAN = 3600;

/**
 * What cloud-init does on the machine. First the dead-man switch, at every start: a machine on which the meter of
 * infra/host/meter.sh does not tick is powered off, whatever else has gone wrong. Then the host's own key, so that it is
 * known before anybody connects, and at last the packages, without which it is a machine all the same.
 */
export function userData(
    hostKey: { readonly privateKey: string; readonly publicKey: string },
    packages: readonly string[] = [],
): string {
    const cloudConfig = {
        // JSON is YAML. An entry that is a text goes to sh; this one runs at every start, before there is a network.
        bootcmd: [deadManSwitch()],
        // Not cloud-init's own `packages`: it would call the whole start a failure where one cannot be had.
        ...(packages.length === 0 ? {} : { runcmd: [installing(packages)] }),
        ssh_deletekeys: true,
        ssh_keys: { ed25519_private: hostKey.privateKey, ed25519_public: hostKey.publicKey },
        ssh_pwauth: false,
        disable_root: true,
        write_files: [
            {
                // Otherwise a client that was cut off would count as logged in for two hours.
                path: "/etc/ssh/sshd_config.d/50-retune.conf",
                content: "ClientAliveInterval 60\nClientAliveCountMax 5\n",
            },
        ],
    };
    return `#cloud-config\n${JSON.stringify(cloudConfig, undefined, 1)}\n`;
}

function installing(packages: readonly string[]): string {
    const apt = "DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -y";
    return `${apt} update; ${apt} install --no-install-recommends ${packages.join(" ")} || true`;
}

/** Units below /run, which are gone with each boot and made again by the next. */
function deadManSwitch(): string {
    return `units=/run/systemd/system
mkdir -p "$units"
cat >/run/retune-dead-man <<'END'
[ -n "$(find /run/retune-meter -mmin -15 2>/dev/null)" ] || systemctl poweroff
END
cat >"$units/retune-dead-man.service" <<'END'
[Service]
Type=oneshot
ExecStart=/bin/sh /run/retune-dead-man
END
cat >"$units/retune-dead-man.timer" <<'END'
[Unit]
DefaultDependencies=no
[Timer]
OnActiveSec=${DEAD_MAN}
OnUnitActiveSec=600
END
systemctl daemon-reload
systemctl start --no-block retune-dead-man.timer
`;
}
