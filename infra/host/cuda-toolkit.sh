# shellcheck shell=bash
# nvcc, only where something compiles: torch brings the CUDA that it needs. From conda-forge, so that it needs no root and
# NVIDIA's apt repository stays away from Ubuntu's driver.
main() {
    local prefix
    [[ -n $RETUNE_CUDA_TOOLKIT ]] || { say "nothing compiles here: nothing to do"; return; }
    prefix=$home/miniforge/envs/cuda-$RETUNE_CUDA_TOOLKIT
    if [[ -e $prefix/.retune ]] && "$prefix/bin/nvcc" --version; then
        say "CUDA toolkit $RETUNE_CUDA_TOOLKIT is there: nothing to do"
        return
    fi
    rm -rf "$prefix"
    "$home/miniforge/bin/conda" create --yes --quiet --prefix "$prefix" --override-channels --channel conda-forge \
        "cuda-toolkit=$RETUNE_CUDA_TOOLKIT" gxx
    "$prefix/bin/nvcc" --version
    : | write "$prefix/.retune"
    say "installed CUDA toolkit $RETUNE_CUDA_TOOLKIT (CUDA_HOME=$prefix)"
}
