import * as fs from "node:fs";
import * as path from "node:path";
import type { z } from "zod";
import { targetSchema } from "../infra/target";
import { project } from "../scripts/locations.cjs";
import type { Program } from "./executor/machine";
import { digest, integer, jsonObject, oneOf } from "./fields";
import { frontOf } from "./front";
import { chatFields, PRECISIONS } from "./llamafactory/answering";
import { environmentOf, programs, versions } from "./llamafactory/job";
import { whyLost } from "./processes";

/** `retune:service`, besides `enabled`. */
export const serviceSettings = {
    /** On the target's loopback. */
    port: integer("a port from 1024 to 65535", { from: 1024, to: 65_535 }).default(8000),
    /** What computes the answers. vLLM has to be in the target's environment. */
    backend: oneOf(["huggingface", "vllm"]).default("huggingface"),
};

export const serviceFields = {
    target: targetSchema,
    /** The exported one. */
    model: digest("the digest of an export"),
    ...chatFields,
    precision: oneOf(PRECISIONS),
    threads: integer("a whole number from 1", { from: 1 }),
    ...serviceSettings,
    tools: jsonObject().optional(),
};

export type ServiceInputs = z.infer<z.ZodObject<typeof serviceFields>>;

/** What a program gives; the rest is found out. */
export type ServiceArgs = Omit<ServiceInputs, "tools">;

/** Versions that are part of the key. `contract` grows when front or program change in what clients see. */
export function serviceTools() {
    return { contract: 1, ...versions("llamafactory", "torch", "transformers") };
}

/**
 * What keeps a stack's service from a port of this machine's IPv4 loopback. Linux lists who listens in /proc/net/tcp:
 * `0: 0100007F:1F40 00000000:0000 0A …`, 0A for LISTEN. Whoever listens on all of IPv6, in tcp6, mostly has IPv4 as well.
 */
export function portProblem(port: number, home: string, stack: string): string | undefined {
    const front = frontOf(port, home);
    if (whyLost(front) === undefined) {
        const owner = front["owner"];
        if (typeof owner !== "string" || owner === serviceOwner(stack, "service")) return undefined;
        return `${port} is that of ${owner} on this machine: choose another port`;
    }
    const hex = port.toString(16).toUpperCase().padStart(4, "0");
    const listens = new RegExp(`^ *\\d+: (0100007F|0{8}|0{32}):${hex} 0+:0000 0A `, "m");
    return ["/proc/net/tcp", "/proc/net/tcp6"].some((file) => listens.test(textOf(file)))
        ? `${port} is taken by another program on this machine: choose another port`
        : undefined;
}

function textOf(file: string): string {
    try {
        return fs.readFileSync(file, "utf8");
    } catch {
        return "";
    }
}

/** Whose a port is, for people: stack dev (service). */
export function serviceOwner(stack: string, name: string): string {
    return `stack ${stack} (${name})`;
}

/** LLaMA-Factory's OpenAI-compatible API on the exported model. */
export function servingProgram(
    { model, template, enableThinking, precision, threads, backend }: ServiceInputs,
    key: string,
): Program {
    return {
        key,
        program: "serve.py",
        parameters: { template, enableThinking: enableThinking ?? null, precision, backend },
        inputs: { model },
        environment: environmentOf(threads),
    };
}

/** The sources of the program and of the front before it, to travel with a request. */
export function servingSources(): Record<string, string> {
    const front = fs.readFileSync(path.join(project, "pipeline", "runner", "front.py"), "utf8");
    return { ...programs("serve.py"), "front.py": front };
}
