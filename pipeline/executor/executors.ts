import type { Target } from "../../infra/target";
import type { Store } from "../store/store";
import type { Executor } from "./executor";
import type { Machine } from "./machine";

/**
 * The way to a target, of which no other is loaded. `notice` takes what there is to say about the way itself, such as a
 * connection that broke.
 */
export async function executorFor(
    target: Target,
    store: Store,
    notice: (text: string) => void = () => undefined,
): Promise<Executor> {
    return machineFor(target, store, notice);
}

/** The same way, to a target that is one machine. */
export async function machineFor(
    target: Target,
    store: Store,
    notice: (text: string) => void = () => undefined,
): Promise<Executor & Machine> {
    switch (target.type) {
        case "local": {
            const { LocalExecutor } = await import("./local");
            return new LocalExecutor();
        }
        case "ssh": {
            const { SshExecutor } = await import("./ssh");
            return new SshExecutor(target, store, notice);
        }
    }
}
