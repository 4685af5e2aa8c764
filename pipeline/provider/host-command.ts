import * as fs from "node:fs";
import * as path from "node:path";
import { z } from "zod";
import { targetSchema } from "../../infra/target";
import { project } from "../../scripts/locations.cjs";
import { changesBetween, type Change } from "../changes";
import { SshExecutor } from "../executor/ssh";
import { hasUnknown, UNKNOWN, type JsonObject } from "../identity";
import type { Store } from "../store/store";
import { UserError } from "../user-error";
import { checkFields, type Checked, type Log, type ResourceLifecycle } from "./lifecycle";
import { plain, withoutNulls } from "./values";

const fields = {
    target: targetSchema,
    command: z.string(),
    stdin: z.string().optional(),
    /** What the command reads instead, relative to the project. */
    file: z.string().optional(),
    triggers: z.array(z.string()),
};

/** A command on a host: it runs once for each set of triggers, on the same way as the stages, and wakes who sleeps. */
export class HostCommandLifecycle implements ResourceLifecycle {
    constructor(
        private readonly store: Store,
        private readonly log: Log,
    ) {}

    check(_urn: string, news: JsonObject): Promise<Checked> {
        return Promise.resolve(checkFields(fields, withoutNulls(news)));
    }

    /** Another way to the same machine is no reason to run it again. */
    diff(_urn: string, oldInputs: JsonObject, _oldOutputs: JsonObject, news: JsonObject): Change[] {
        return changesBetween(
            { triggers: plain(oldInputs)["triggers"] ?? [] },
            { triggers: plain(news)["triggers"] ?? [] },
        );
    }

    preview(urn: string, news: JsonObject): Promise<JsonObject> {
        this.log(urn, "would run on the host", { ephemeral: false });
        const triggers = hasUnknown(news["triggers"]) ? UNKNOWN : plain(news)["triggers"];
        return Promise.resolve({ triggers: triggers ?? [], stdout: UNKNOWN, action: "would-run" });
    }

    async apply(urn: string, news: JsonObject): Promise<JsonObject> {
        const { target, command, stdin, file } = z.object(fields).parse(plain(news));
        if (target.type !== "ssh") throw new UserError(`target.type: a host is reached by ssh, not ${target.type}`);
        const executor = new SshExecutor(target, this.store, (line) => {
            this.log(urn, line, { ephemeral: false, warning: true });
        });
        const progress = (text: string): void => {
            this.log(urn, text, { ephemeral: true });
        };
        await executor.wake(progress);
        progress(`at work on ${target.host}`);
        const input = file === undefined ? (stdin ?? "") : await fs.promises.readFile(path.join(project, file));
        return { stdout: await executor.run(command, input), action: "ran" };
    }

    /** What it has done shows at the host. */
    read(_urn: string, _inputs: JsonObject, outputs: JsonObject): Promise<JsonObject> {
        return Promise.resolve(outputs);
    }

    /** What it has done stays. */
    delete(): Promise<void> {
        return Promise.resolve();
    }
}
