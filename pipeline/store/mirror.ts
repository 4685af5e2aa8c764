import { execFile } from "node:child_process";
import * as fs from "node:fs";
import * as path from "node:path";
import { promisify } from "node:util";
import { digestOfFiles, listFiles, temporaryName } from "../identity";
import { UserError } from "../user-error";
import type { Result, Store } from "./store";

const execute = promisify(execFile);

/** rclone's exit codes for a directory or a file that is not there. */
const NOT_FOUND = [3, 4];
/** What a report needs of a run besides its artifact; the result is written last, here as there. */
const RECORDS = ["job.json", "events.jsonl", "log"];

/**
 * A copy of the store on any remote that rclone knows, such as `s3:bucket/prefix`: artifacts by digest, runs by key.
 * Whoever has the mirror takes a model from it instead of training it. An entry is written after its artifact, and
 * what comes down is verified before it counts.
 */
export class Mirror {
    constructor(
        private readonly remote: string,
        private readonly store: Store,
    ) {}

    /** The entry of a key, without its artifact; undefined where the mirror has none. */
    async entry(key: string): Promise<Result | undefined> {
        const text = await this.rclone(["cat", this.at("runs", key, "result.json")]);
        return text === undefined || text === "" ? undefined : (JSON.parse(text) as Result);
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

    /** Sends a result to the mirror. What is there already is not sent again. */
    async push(result: Result): Promise<void> {
        const folder = this.store.runFolder(result.key);
        await this.rclone(["copy", this.store.artifactFolder(result.digest), this.at("store", result.digest)]);
        for (const name of [...RECORDS, "result.json"]) {
            const file = path.join(folder, name);
            if (fs.existsSync(file)) await this.rclone(["copyto", file, this.at("runs", result.key, name)]);
        }
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
        try {
            const { stdout } = await execute("rclone", [...args, "--retries", "3", "--low-level-retries", "3"], {
                maxBuffer: 1 << 26,
            });
            return stdout;
        } catch (error) {
            const { code, stderr } = error as { code?: number | string; stderr?: string };
            if (code === "ENOENT")
                throw new UserError("target.mirror wants rclone, which is not on PATH: https://rclone.org/install");
            if (typeof code === "number" && NOT_FOUND.includes(code)) return undefined;
            throw new UserError(
                `the mirror ${this.remote} cannot be used: ${(stderr ?? "").trim().split("\n").at(-1) ?? ""}`,
            );
        }
    }
}
