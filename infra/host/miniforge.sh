# shellcheck shell=bash
# conda with conda-forge as its only channel, in a folder of its own: whatever conda the user has is left alone.
prefix=$home/miniforge
installer=Miniforge3-$RETUNE_MINIFORGE_VERSION-Linux-x86_64.sh
file=$prepare/$installer

digest_of() {
    sha256sum "$1" | cut -d ' ' -f 1
}

download() {
    local attempt code=0 found url=$RETUNE_MINIFORGE_URL/$RETUNE_MINIFORGE_VERSION/$installer
    [[ ! -e $file || $(digest_of "$file") != "$RETUNE_MINIFORGE_SHA256" ]] || return 0
    for attempt in 1 2 3 4 5; do
        code=0
        # Goes on where the last attempt was cut off; slower than 1 KB/s for a minute counts as cut off.
        curl --fail --silent --show-error --location --connect-timeout 15 --speed-limit "${RETUNE_SPEED_LIMIT:-1000}" \
            --speed-time "${RETUNE_SPEED_SECONDS:-60}" --continue-at - --output "$file.partial" "$url" || code=$?
        case $code in
            0) break ;;
            # It was whole already, or the server cannot go on in the middle: from the beginning.
            33 | 22 | 36) rm -f "$file.partial" ;;
            127) fail "there is no curl on this machine: \`sudo apt-get install curl\`" ;;
        esac
        ((attempt == 5)) || sleep "${RETUNE_PAUSE_SECONDS:-$((attempt * 2))}"
    done
    ((code == 0)) ||
        fail "$url cannot be downloaded (curl: exit code $code). Behind a proxy, set https_proxy on the host; where this server is slow or blocked, set target.mirrors.miniforge"
    found=$(digest_of "$file.partial")
    if [[ $found != "$RETUNE_MINIFORGE_SHA256" ]]; then
        rm "$file.partial"
        fail "$url is not the installer that was asked for: SHA-256 $found, expected $RETUNE_MINIFORGE_SHA256. It was not run"
    fi
    mv "$file.partial" "$file"
}

# conda's installer refuses a path with blanks: there its folder is elsewhere, and a link leads to it.
place() {
    local real=$prefix
    if [[ $prefix == *[[:space:]]* ]]; then
        real=/opt/retune-$(id -un)
        if [[ ! -w $real ]]; then
            need_root "conda refuses paths with blanks ($prefix), and making $real" \
                "set target.home to a path without blanks that you may write to"
            root install -d -o "$(id -u)" -g "$(id -g)" "$real"
        fi
        real=$real/miniforge
        ln -sfn "$real" "$prefix"
    fi
    printf '%s\n' "$real"
}

condarc() {
    printf 'channels:\n  - conda-forge\n'
    [[ -z ${RETUNE_CONDA_MIRROR:-} ]] || printf 'custom_channels:\n  conda-forge: %s\n' "$RETUNE_CONDA_MIRROR"
}

main() {
    local real changed=
    [[ $(uname -m) == x86_64 ]] ||
        fail "this machine is $(uname -m), and the locked environment is for x86_64: use an x86_64 machine"
    if [[ $(cat "$prefix/.retune" 2>/dev/null || true) != "$RETUNE_MINIFORGE_VERSION" || ! -x $prefix/bin/conda ]]; then
        download
        real=$(place)
        # Without its mark it was interrupted; with one, an older version, it is brought up to date under its environments.
        [[ -e $real/.retune ]] || rm -rf "$real"
        bash "$file" -b -u -p "$real"
        printf '%s\n' "$RETUNE_MINIFORGE_VERSION" | write "$real/.retune"
        rm "$file"
        changed="installed Miniforge $RETUNE_MINIFORGE_VERSION"
    fi
    if [[ $(cat "$prefix/.condarc" 2>/dev/null || true) != "$(condarc)" ]]; then
        condarc | write "$prefix/.condarc"
        changed=${changed:-changed the channel of Miniforge}
    fi
    say "${changed:-Miniforge $RETUNE_MINIFORGE_VERSION is there: nothing to do}"
}
