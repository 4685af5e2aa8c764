/*
 * What AWS offers that Retune knows: instance types with their GPUs and prices, and images. No SDK is loaded by it.
 */

/** Of Linux on demand in us-east-1; other regions cost more or less, and target.pricePerHour says so. */
export const PRICES = { date: "2026-08-17", source: "AWS Pricing API", region: "us-east-1" } as const;

interface InstanceType {
    readonly gpu: string;
    readonly gpus: number;
    /** GiB of one GPU. */
    readonly memory: number;
    /** CUDA compute capability: bf16 begins at 8.0. */
    readonly capability: number;
    /** AWS counts its quotas in these. */
    readonly vcpus: number;
    /** Dollars for an hour on demand. */
    readonly price: number;
}

const TYPES = {
    "g4dn.xlarge": { gpu: "T4", gpus: 1, memory: 16, capability: 7.5, vcpus: 4, price: 0.526 },
    "g5.xlarge": { gpu: "A10G", gpus: 1, memory: 24, capability: 8.6, vcpus: 4, price: 1.006 },
    "g5.12xlarge": { gpu: "A10G", gpus: 4, memory: 24, capability: 8.6, vcpus: 48, price: 5.672 },
    "g5.48xlarge": { gpu: "A10G", gpus: 8, memory: 24, capability: 8.6, vcpus: 192, price: 16.288 },
    "g6.xlarge": { gpu: "L4", gpus: 1, memory: 24, capability: 8.9, vcpus: 4, price: 0.8048 },
    "g6.2xlarge": { gpu: "L4", gpus: 1, memory: 24, capability: 8.9, vcpus: 8, price: 0.9776 },
    "g6e.xlarge": { gpu: "L40S", gpus: 1, memory: 48, capability: 8.9, vcpus: 4, price: 1.861 },
    "g6e.2xlarge": { gpu: "L40S", gpus: 1, memory: 48, capability: 8.9, vcpus: 8, price: 2.24208 },
    "g6e.4xlarge": { gpu: "L40S", gpus: 1, memory: 48, capability: 8.9, vcpus: 16, price: 3.00424 },
    "g6e.12xlarge": { gpu: "L40S", gpus: 4, memory: 48, capability: 8.9, vcpus: 48, price: 10.49264 },
    "g6e.48xlarge": { gpu: "L40S", gpus: 8, memory: 48, capability: 8.9, vcpus: 192, price: 30.13 },
    "p4d.24xlarge": { gpu: "A100", gpus: 8, memory: 40, capability: 8, vcpus: 96, price: 21.957642 },
    "p4de.24xlarge": { gpu: "A100", gpus: 8, memory: 80, capability: 8, vcpus: 96, price: 27.44705 },
    "p5.48xlarge": { gpu: "H100", gpus: 8, memory: 80, capability: 9, vcpus: 192, price: 55.04 },
} as const satisfies Readonly<Record<string, InstanceType>>;

export type InstanceTypeName = keyof typeof TYPES;

export const INSTANCE_TYPES = Object.keys(TYPES) as [InstanceTypeName, ...InstanceTypeName[]];

export function instanceTypeOf(name: InstanceTypeName): InstanceType {
    return TYPES[name];
}

/** The quota of vCPUs that an instance type counts in, and its name in AWS's console. */
export function quotaOf(name: InstanceTypeName, spot: boolean): { readonly code: string; readonly name: string } {
    if (name.startsWith("g")) {
        return spot
            ? { code: "L-3819A6DF", name: "All G and VT Spot Instance Requests" }
            : { code: "L-DB2E81BA", name: "Running On-Demand G and VT instances" };
    }
    // P5 has a quota of its own for spot.
    if (spot && name.startsWith("p5")) return { code: "L-C4BD4855", name: "All P5 Spot Instance Requests" };
    return spot
        ? { code: "L-7212CCBC", name: "All P4, P3 and P2 Spot Instance Requests" }
        : { code: "L-417A185B", name: "Running On-Demand P instances" };
}

/** Dollars a month for a GiB of gp3, which costs also while the machine sleeps. */
export const DISK_PRICE = 0.08;

export const SYSTEMS = ["gpu-ubuntu-22.04", "gpu-ubuntu-24.04", "ubuntu-22.04", "ubuntu-24.04"] as const;

/** The public parameter of Systems Manager that holds the newest image's id. */
export function imageParameter(system: (typeof SYSTEMS)[number]): string {
    switch (system) {
        case "gpu-ubuntu-22.04":
        case "gpu-ubuntu-24.04":
            return `/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-${system}/latest/ami-id`;
        case "ubuntu-22.04":
            return "/aws/service/canonical/ubuntu/server/22.04/stable/current/amd64/hvm/ebs-gp2/ami-id";
        case "ubuntu-24.04":
            return "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id";
    }
}
