import type { Target } from "../../infra/target";
import type { Executor } from "./executor";
import { LocalExecutor } from "./local";

/** The way to a target. */
export function executorFor(target: Target): Executor {
    switch (target.type) {
        case "local":
            return new LocalExecutor();
    }
}
