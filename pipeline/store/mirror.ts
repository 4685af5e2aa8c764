import { execFile } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { promisify } from "node:util";
import { digestOfFiles, listFiles, parseJson, temporaryName } from "../identity";
import { failureOf } from "../rclone";
import { UserError } from "../user-error";
import { isResultOf, type Result, type Store } from "./store";
import { dropUpload, type Upload } from "./uploads";

const execute = promisify(execFile);

/** rclone's exit codes for a directory or a file that is not there. */
const NOT_FOUND = [3, 4];
/** What a report needs of a run besides its artifact; the result is written last, here as there. */
const RECORDS = ["job.json", "events.jsonl", "log"];

const LIMITS = ["--retries", "3", "--low-level-retries", "3", "--contimeout", "15s", "--timeout", "60s"];
/** Milliseconds for which a mirror that did not answer is not asked again: each stage would wait for it. */
const PAUSE = 60_000;
/** What time does not heal: no such remote, no such type, keys that are refused. */
const MISCONFIGURED =
    /didn't find (section|backend)|AccessDenied|Forbidden|InvalidAccessKeyId|SignatureDoesNotMatch|unauthorized/i;

/** A mirror that does not answer now. It only saves work: no reason to fail. */
export class Unreachable extends UserError {}

/** What rclone calls a folder of a bucket of S3, which is reached with the credentials that are at hand. */
export function s3Remote(place: string, region: string): string {
    return `:s3,provider=AWS,env_auth=true,no_check_bucket=true,region=${region}:${place}`;
}

/**
 * A copy of the store on any remote that rclone knows, such as `s3:bucket/prefix`: artifacts by digest, runs by key.
 * Whoever has the mirror takes a model from it instead of training it. An entry is written after its artifact, and
 * what comes down is verified before it counts.
 */
export class Mirror {
    private down: { readonly until: number; readonly error: Unreachable } | undefined;

    constructor(
        readonly remote: string,
        private readonly store: Store,
    ) {}

    /** The entry of a key, without its artifact; undefined where the mirror has none. */
    async entry(key: string): Promise<Result | undefined> {
        const text = await this.rclone(["cat", this.at("runs", key, "result.json"), "--retries", "1"]);
        const result = text === undefined ? undefined : (parseJson(text) as Partial<Result> | undefined);
        return isResultOf(key, result) ? result : undefined;
    }

    /** Brings the result of a key into the store, verified; undefined where the mirror has none, or a damaged one. */
    async fetch(key: string): Promise<Result | undefined> {
        const result = await this.entry(key);
        if (result === undefined) return undefined;
        if ((await this.store.damage(result.digest)) !== undefined && !(await this.fetchArtifact(result.digest))) {
            return undefined;
        }
        const folder = this.store.runFolder(key);
        await fs.promises.mkdir(folder, { recursive: true });
        for (const name of RECORDS) await this.rclone(["copyto", this.at("runs", key, name), path.join(folder, name)]);
        await this.store.record(result);
        return result;
    }

    /** Sends a result to the mirror. What is there already is not sent again, and nothing that is not as it was made. */
    async push(result: Result): Promise<void> {
        const damage = await this.store.damage(result.digest);
        if (damage !== undefined) {
            const what = `the artifact of run ${result.key.slice(0, 12)} is not sent to the mirror ${this.remote}: ${damage}`;
            throw new UserError(`${what}; \`npm run refresh\`, then \`npm run up\` bring it back`);
        }
        const folder = this.store.runFolder(result.key);
        await this.rclone(["copy", this.store.artifactFolder(result.digest), this.at("store", result.digest)]);
        for (const name of [...RECORDS, "result.json"]) {
            const file = path.join(folder, name);
            if (fs.existsSync(file)) await this.rclone(["copyto", file, this.at("runs", result.key, name)]);
        }
    }

    /** Removes the copies that a target has made of a run's checkpoints. */
    async dropCheckpoints(key: string): Promise<void> {
        await this.rclone(["purge", this.at(key)]);
    }

    private async fetchArtifact(digest: string): Promise<boolean> {
        const place = this.store.artifactFolder(digest);
        const partial = temporaryName(place);
        try {
            await this.rclone(["copy", this.at("store", digest), partial]);
            const files = await listFiles(partial).catch(() => []);
            if (digestOfFiles(files) !== digest) return false;
            await this.store.keep(partial, digest, files);
            return true;
        } finally {
            await fs.promises.rm(partial, { recursive: true, force: true });
        }
    }

    private at(...parts: readonly string[]): string {
        return [this.remote.replace(/\/$/, ""), ...parts].join("/");
    }

    /** What rclone printed; undefined for something that is not there. */
    private async rclone(args: readonly string[]): Promise<string | undefined> {
        if (this.down !== undefined && performance.now() < this.down.until) throw this.down.error;
        try {
            const { stdout } = await execute("rclone", [...LIMITS, ...args], { maxBuffer: 1 << 26 });
            this.down = undefined;
            return stdout;
        } catch (error) {
            const { code, stderr } = error as { code?: number | string; stderr?: string };
            if (code === "ENOENT")
                throw new UserError("target.mirror wants rclone, which is not on PATH: https://rclone.org/install");
            if (typeof code === "number" && NOT_FOUND.includes(code)) return undefined;
            const said = failureOf(stderr ?? "");
            if (MISCONFIGURED.test(said)) throw new UserError(`the mirror ${this.remote} cannot be used: ${said}`);
            const unreachable = new Unreachable(`the mirror ${this.remote} cannot be reached: ${said}`);
            this.down = { until: performance.now() + PAUSE, error: unreachable };
            throw unreachable;
        }
    }
}

/** Sends what earlier updates could not. `say` gets a line about what came of it. */
export async function sendPending(
    store: Store,
    pending: readonly Upload[],
    say: (text: string) => void,
): Promise<void> {
    const mirrors = new Map(pending.map(({ remote }) => [remote, new Mirror(remote, store)]));
    const problems = new Set<string>();
    let sent = 0;
    for (const { key, remote } of pending) {
        try {
            const result = await store.result(key);
            if (result !== undefined) await mirrors.get(remote)?.push(result);
            await dropUpload(store.home, { key, remote });
            sent += 1;
        } catch (error) {
            if (!(error instanceof UserError)) throw error;
            problems.add(error.message);
        }
    }
    if (sent > 0) say(`sent ${count(sent)} of earlier updates to the mirror`);
    const left = count(pending.length - sent);
    for (const problem of problems) say(`warning: ${problem}; the next \`npm run up\` sends ${left}`);
}

function count(results: number): string {
    return results === 1 ? "1 result" : `${results} results`;
}
