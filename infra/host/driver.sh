# shellcheck shell=bash
# The NVIDIA driver: as it is where it works, else from Ubuntu's archive, whose kernel modules are built and signed for each
# kernel. Never beside a driver from somewhere else.
blocklist=/etc/modprobe.d/retune-nouveau.conf

graphics_cards() {
    local device
    for device in /sys/bus/pci/devices/*; do
        [[ $(cat "$device/vendor" 2>/dev/null) == 0x10de && $(cat "$device/class" 2>/dev/null) == 0x03* ]] && return 0
    done
    return 1
}

version() {
    grep -oE '[0-9]{3}\.[0-9]+(\.[0-9]+)?' | head -n 1
}

loaded() {
    version 2>/dev/null </proc/driver/nvidia/version
}

works() {
    local programs
    programs=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader | version) && [[ $programs == "$(loaded)" ]]
}

nouveau() {
    grep -q '^nouveau ' /proc/modules
}

nvidia_sources() {
    grep -lsr developer.download.nvidia.com /etc/apt/sources.list /etc/apt/sources.list.d || true
}

# Packages as Ubuntu's archive versions them, such as 580.126.09-0ubuntu0.22.04.1, and all others.
packages() {
    dpkg-query --show --showformat '${db:Status-Abbrev} ${Package} ${Version}\n' \
        'nvidia-driver-*' 'nvidia-open*' 'nvidia-dkms-*' 'nvidia-kernel-*' 'libnvidia-compute*' 2>/dev/null |
        awk -v archive="$1" '$1 == "ii" && ($3 ~ /-0ubuntu0\./) == archive { print $2 }'
}

restart() {
    boot_id | write "$reboot_marker"
    say "$1; a restart is needed (this boot is $(boot_id))"
}

block_nouveau() {
    need_root "keeping nouveau from loading" \
        "let an administrator write \"blacklist nouveau\" and \"options nouveau modeset=0\" to $blocklist and run: sudo update-initramfs -u"
    printf 'blacklist nouveau\noptions nouveau modeset=0\n' | root tee "$blocklist"
    root update-initramfs -u
}

# From a driver that is installed to one that is loaded.
load() {
    if nouveau; then
        block_nouveau
        restart "$1; nouveau has the GPU and will not load again"
        return
    fi
    if mokutil --sb-state 2>/dev/null | grep -q 'SecureBoot enabled' && [[ -z $(modinfo -F signer nvidia) ]]; then
        fail "Secure Boot is on and the installed NVIDIA kernel module is not signed, so the kernel refuses it. Enrol its key (\`sudo mokutil --import /var/lib/shim-signed/mok/MOK.der\`, then confirm at the console), take the signed modules of Ubuntu's archive, or turn Secure Boot off in the firmware"
    fi
    need_root "loading the NVIDIA kernel module" "let an administrator run: sudo modprobe nvidia"
    if root modprobe nvidia && works; then
        say "$1; loaded ($(loaded))"
    else
        restart "$1; its kernel module does not load in this boot"
    fi
}

install_driver() {
    local ID VERSION_ID sources others kernel
    kernel=$(uname -r)
    # shellcheck source=/dev/null
    . /etc/os-release
    [[ $ID == ubuntu && $VERSION_ID =~ ^2[24]\.04$ ]] ||
        fail "there is no NVIDIA driver here, and this machine is $ID ${VERSION_ID:-}: it is installed on Ubuntu 22.04 and 24.04 only. Install it by hand, or use one of these"
    sources=$(nvidia_sources)
    [[ -z $sources ]] ||
        fail "NVIDIA's repository is set up (${sources//$'\n'/, }): a driver from Ubuntu's archive beside it would be overwritten. Install that one (\`sudo apt-get install nvidia-open\`), or remove the file, then start again"
    others=$(packages 0)
    [[ -z $others ]] ||
        fail "there are driver packages that are not from Ubuntu's archive (${others//$'\n'/, }): remove them (\`sudo apt-get purge ${others//$'\n'/ }\`), or mend that driver, then start again"
    need_root "installing the NVIDIA driver" \
        "let an administrator run: sudo ubuntu-drivers install --gpgpu nvidia:$RETUNE_DRIVER; sudo apt-get install nvidia-utils-${RETUNE_DRIVER%-open}"
    apt update
    command -v ubuntu-drivers || apt install ubuntu-drivers-common
    # 6.8.0-1044-aws → aws: the modules that are built for the kernel that runs
    apt install "linux-modules-nvidia-$RETUNE_DRIVER-${kernel##*-}"
    root ubuntu-drivers install --gpgpu "nvidia:$RETUNE_DRIVER"
    apt install "nvidia-utils-${RETUNE_DRIVER%-open}"
    load "installed the driver $RETUNE_DRIVER from Ubuntu's archive"
}

main() {
    local answer there
    [[ $RETUNE_GPU == required ]] || { say "no GPU is wanted: nothing to do"; return; }
    if works; then
        there=$(loaded)
        if at_least "$there" "$RETUNE_MINIMUM_DRIVER"; then
            say "driver $there is loaded: nothing to do"
            return
        fi
        [[ -n $(packages 1) && -z $(packages 0) ]] ||
            fail "driver $there is older than $RETUNE_MINIMUM_DRIVER, which this torch needs, and it is not from Ubuntu's archive: bring it up to date in the way that it was installed"
        install_driver
        return
    fi
    answer=$(nvidia-smi 2>&1 || true)
    if [[ $answer == *"Driver/library version mismatch"* ]]; then
        restart "the driver's programs are not of the version of the loaded kernel module, $(loaded)"
        return
    fi
    graphics_cards || fail "there is no NVIDIA GPU in this machine: choose one that has, or set target.gpu to none for a small model on the CPU"
    if there=$(modinfo -F version nvidia 2>/dev/null) && command -v nvidia-smi; then
        load "driver $there was installed"
    else
        install_driver
    fi
}
