import type { Target } from "../../infra/target";
import type { Executor } from "./executor";
import { LocalExecutor } from "./local";

/** The way to each kind of target. */
export const executors: Readonly<Record<Target["type"], (target: Target) => Executor>> = {
    local: () => new LocalExecutor(),
};
