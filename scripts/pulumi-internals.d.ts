// What the SDK has, but strips from its published types. Versions are pinned exactly, and an engine test fails when one
// of these is gone.

declare module "@pulumi/pulumi/runtime/config.js" {
    export function allConfig(): Record<string, string>;
    /** Whether the value of a full key, such as `retune:training`, is or holds a secret. */
    export function isConfigSecret(key: string): boolean;
}

declare module "@pulumi/pulumi/automation/server.js" {
    import type { UntypedHandleCall } from "@grpc/grpc-js";

    /** Serves a program to the engine, as the language host does. */
    export class LanguageServer {
        constructor(program: () => Promise<unknown>);
        [method: string]: UntypedHandleCall;
    }
}
