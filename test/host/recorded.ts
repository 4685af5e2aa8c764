/*
 * What programs of a GPU machine print, where this one has neither.
 */

export const OPEN_MODULE = `NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.126.09  Release Build  (dvs-builder@U22-I3-AE18-29-4)  Wed Jan  7 22:33:28 UTC 2026
GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04.2)
`;
export const PROPRIETARY_MODULE = `NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.256.02  Thu May  2 14:37:44 UTC 2024
GCC version:  gcc version 11.4.0 (Ubuntu 11.4.0-1ubuntu1~22.04)
`;
export const MISMATCH = `Failed to initialize NVML: Driver/library version mismatch
NVML library version: 580.142
`;
export const NO_DEVICES = "No devices were found\n";
export const NO_DRIVER = `NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA driver is installed and running.

`;
export const ARCHIVE_PACKAGES = `ii  libnvidia-compute-580-server 580.126.09-0ubuntu0.22.04.1
ii  nvidia-kernel-common-580-server 580.126.09-0ubuntu0.22.04.1
`;
export const NVIDIA_PACKAGES = `ii  libnvidia-compute 590.48.01-1ubuntu1
ii  nvidia-open 590.48.01-1ubuntu1
`;
export const SECURE_BOOT = "SecureBoot enabled\n";
export const SUDO_REFUSES = "sudo: a password is required\n";
