// A small client: two stages on the real store, executor and runner, without the engine. Where a fine-tune has a data set
// and a training, it has stand-ins: a stage of the client, and one of the target whose program is a few lines of Python.
import * as fs from "node:fs";
import * as path from "node:path";
import type { Job, Supplies } from "../../../pipeline/executor/executor";
import { LocalExecutor } from "../../../pipeline/executor/local";
import type { JsonObject } from "../../../pipeline/identity";
import { Detached, ensure } from "../../../pipeline/provider/ensure";
import type { Stage } from "../../../pipeline/stage";
import { Store } from "../../../pipeline/store/store";
import { home } from "../../../scripts/locations.cjs";

/** What a client has done, one word and digest a stage, or why it has not. */
export interface Outcome {
    readonly actions?: Readonly<Record<string, string>>;
    readonly digests?: Readonly<Record<string, string>>;
    readonly error?: string;
}

/** Counts its starts, notices another one beside it, and ends when it is let go. */
const PROGRAM = `
import fcntl, json, os, time
from pathlib import Path
control = Path(json.loads(Path("../job.json").read_text())["parameters"]["control"])
with (control / "starts").open("a") as file: file.write("x")
alone = (control / "alone").open("w")
try: fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError: (control / "overlap").touch()
(control / "started").touch()
while not (control / "go").exists(): time.sleep(0.002)
Path("out/answer.txt").write_text(Path("rows/rows.txt").read_text().upper())
Path("outcome.json").write_text(json.dumps({"metrics": {"token": len(os.environ["HF_TOKEN"])}}))
`;

interface Inputs extends JsonObject {
    readonly control: string;
    readonly rows: string;
}

const common = { fields: {}, transport: ["control"], tools: () => ({ contract: 1 }), facts: () => ({}) } as const;

const rows: Stage<Inputs> = {
    ...common,
    kind: "Rows",
    work: () => ({
        on: "client",
        inPreview: "unknown",
        async run({ folder }) {
            await fs.promises.writeFile(path.join(folder, "rows.txt"), "some rows\n");
            return {};
        },
    }),
};

const words: Stage<Inputs> = {
    ...common,
    kind: "Words",
    work: ({ control, rows: digest }, key) => ({
        on: "target",
        run: {
            ...{ key, kind: "Words", parameters: { control }, inputs: { rows: digest }, produces: ["answer.txt"] },
            // The name of one that there is; what it says is replaced below.
            ...{ program: "model.py", stoppable: false, preload: [], environment: {}, hub: true, stays: false },
        },
    }),
};

class StandIn extends LocalExecutor {
    constructor(private readonly found: () => void) {
        super();
    }

    override async submit(job: Job, supplies: Supplies, again: boolean) {
        const status = await super.submit(job, { ...supplies, programs: { [job.program]: PROGRAM } }, again);
        this.found();
        return status;
    }

    override async status(...args: Parameters<LocalExecutor["status"]>) {
        const status = await super.status(...args);
        this.found();
        return status;
    }
}

/** `release` lets the program end as soon as this client has started or found its run. */
async function up(cancelled: AbortSignal, release: boolean): Promise<Outcome> {
    const control = process.env["CRASH_CONTROL"] ?? "";
    const executor = new StandIn(() => {
        if (release) fs.writeFileSync(path.join(control, "go"), "");
    });
    const surroundings = {
        ...{
            stack: "test",
            store: new Store(home()),
            executor,
            mirror: undefined,
            target: { type: "local" } as const,
            limitSeconds: undefined,
            cancelled,
        },
        ...{ session: new Map(), progress: () => undefined, warn: () => undefined },
    };
    try {
        const first = await ensure(rows as Stage, "rows", { control, rows: "" }, surroundings);
        const inputs = { control, rows: first.result.digest };
        const second = await ensure(words as Stage, "words", inputs, surroundings);
        return {
            actions: { rows: first.action, words: second.action },
            digests: { rows: first.result.digest, words: second.result.digest },
        };
    } catch (error) {
        return { error: error instanceof Detached ? "detached" : String(error) };
    }
}

if (process.send === undefined) {
    // As an update does: the signals of the command become the provider's cancellation.
    const cancellation = new AbortController();
    for (const signal of ["SIGINT", "SIGTERM"] as const) {
        process.on(signal, () => {
            cancellation.abort();
        });
    }
    void up(cancellation.signal, false).then(({ error }) => {
        if (error !== undefined) process.stderr.write(error);
        // The engine ends the provider as soon as its operations have answered.
        process.exit(error === undefined ? 0 : error === "detached" ? 4 : 1);
    });
} else {
    // Several updates one after the other, each in the environment that it is sent.
    process.on("message", (request: { environment: Readonly<Record<string, string>>; release: boolean }) => {
        Object.assign(process.env, request.environment);
        void up(new AbortController().signal, request.release).then((outcome) => process.send?.(outcome));
    });
}
