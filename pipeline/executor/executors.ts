import type { Target } from "../../infra/target";
import type { Store } from "../store/store";
import type { Executor } from "./executor";
import { LocalExecutor } from "./local";
import { SshExecutor } from "./ssh";

/** The way to a target. `notice` takes what there is to say about the way itself, such as a connection that broke. */
export function executorFor(target: Target, store: Store, notice: (text: string) => void = () => undefined): Executor {
    switch (target.type) {
        case "local":
            return new LocalExecutor();
        case "ssh":
            return new SshExecutor(target, store, notice);
    }
}
