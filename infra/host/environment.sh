# shellcheck shell=bash
# The conda environment `llama-factory`: LLaMA-Factory and all it needs, as the lock says, each file by its digest. Every lock
# has a folder of its own and the name is a link, so that an environment in use stays whole while the next one is made.
envs=$home/miniforge/envs
name=llama-factory
lock=$prepare/requirements-${RETUNE_LOCK_SHA256:0:16}.lock
folder=$name-${RETUNE_LOCK_SHA256:0:16}
uv=$prepare/uv-$RETUNE_UV_VERSION

check() {
    local free driver
    [[ $(uname -m) == x86_64 ]] ||
        fail "this machine is $(uname -m), and the lock is for x86_64: use an x86_64 machine"
    [[ -e $lock && $(sha256sum "$lock" | cut -d ' ' -f 1) == "$RETUNE_LOCK_SHA256" ]] ||
        fail "the lock file has not arrived whole at $lock: start again"
    free=$(df --output=avail -BM "$home" | tail -n 1 | tr -dc 0-9)
    ((free >= RETUNE_ENVIRONMENT_MB)) ||
        fail "the environment needs $RETUNE_ENVIRONMENT_MB MB of disk, and $home has $free MB left: make room, or set target.home to a folder on a larger disk"
    [[ $RETUNE_GPU == required ]] || return 0
    driver=$(grep -oE '[0-9]{3}\.[0-9]+(\.[0-9]+)?' /proc/driver/nvidia/version | head -n 1) ||
        fail "the NVIDIA driver is not loaded: the step \`driver\` comes first"
    at_least "$driver" "$RETUNE_MINIMUM_DRIVER" ||
        fail "driver $driver is older than $RETUNE_MINIMUM_DRIVER, which the lock's torch ($RETUNE_FLAVOUR) needs: bring the driver up to date"
}

proof() {
    "$1/bin/llamafactory-cli" version | grep -oE 'version[: ]+[0-9][0-9.a-z]*' | grep -oE '[0-9][0-9.a-z]*'
}

bring_uv() {
    [[ ! -x $uv/bin/uv ]] || return 0
    rm -rf "$uv"
    "$home/miniforge/bin/python" -m venv "$uv"
    printf '%s\n' "$RETUNE_UV_LOCK" >"$uv/uv.lock"
    PIP_USER=0 "$uv/bin/python" -m pip install --quiet --require-hashes --only-binary :all: \
        --requirement "$uv/uv.lock"
}

# All but this one and the one that it takes the place of, which runs may still be using.
clean() {
    local other
    for other in "$envs/$name"-*; do
        [[ $other == "$envs/$folder" || $other == "$1" ]] || rm -rf "$other"
    done
}

main() {
    local release='' before made=
    export UV_HTTP_TIMEOUT=120
    # Without one, pip and uv ask where they ask by themselves.
    if [[ -n $RETUNE_INDEX ]]; then export PIP_INDEX_URL=$RETUNE_INDEX UV_DEFAULT_INDEX=$RETUNE_INDEX; fi
    # They would throw away bytecode, which every later start wants, or name another environment.
    unset PYTHONDONTWRITEBYTECODE PYTHONPATH PYTHONHOME UV_SYSTEM_PYTHON UV_PYTHON UV_TARGET UV_PREFIX
    # One that was complete may have been spoilt since.
    if [[ -e $envs/$folder/.retune ]]; then release=$(proof "$envs/$folder") || true; fi
    if [[ -z $release ]]; then
        check
        bring_uv
        rm -rf "${envs:?}/$folder"
        "$home/miniforge/bin/conda" create --yes --quiet --prefix "$envs/$folder" --override-channels --channel conda-forge \
            "python=$RETUNE_PYTHON"
        "$uv/bin/uv" pip install --python "$envs/$folder/bin/python" --require-hashes --compile-bytecode --requirement "$lock"
        release=$(proof "$envs/$folder") ||
            fail "\`llamafactory-cli version\` does not run in $envs/$folder: its output is in $log"
        made=yes
    fi
    : | write "$envs/$folder/.retune"
    before=$(readlink -f "$envs/$name" || true)
    if [[ $before != "$(readlink -f "$envs/$folder")" ]]; then
        [[ -L $envs/$name ]] || rm -rf "${envs:?}/$name"
        ln -sfn "$folder" "$envs/$name.partial"
        mv -T "$envs/$name.partial" "$envs/$name"
        made=yes
    fi
    if [[ -z $made ]]; then
        say "LLaMA-Factory $release is there: nothing to do"
        return
    fi
    clean "$before"
    say "LLaMA-Factory $release is ready in $envs/$name ($RETUNE_FLAVOUR)"
}
