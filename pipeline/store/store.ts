import * as fs from "node:fs";
import * as path from "node:path";
import type { Job } from "../executor/executor";
import { digestOfFiles, fileDigest, listFiles, parseJson, temporaryName, type FileEntry, type Json } from "../identity";

/** The facts that a run leaves beside its artifact: few, small, no logs. */
export type Metrics = Readonly<Record<string, Json>>;

/** `result.json` of a run that succeeded. Times are seconds since 1970. */
export interface Result {
    readonly key: string;
    readonly kind: string;
    readonly digest: string;
    readonly files: readonly FileEntry[];
    readonly metrics: Metrics;
    readonly startedAt: number;
    readonly finishedAt: number;
    readonly seconds: number;
    /** Of a run on a target: what it was made on. In no key; of the training's a part is in the export's manifest. */
    readonly host?: {
        readonly name: string;
        readonly machine: string;
        readonly cpus: number;
        /** Such as "AMD EPYC 9654 96-Core Processor". */
        readonly cpu?: string;
        readonly gpus?: readonly string[];
        readonly driver?: string;
        /** Of the operating system, such as "ubuntu 22.04". */
        readonly release?: string;
        readonly python?: string;
        readonly torch?: string;
        /** What torch was built with. */
        readonly cuda?: string;
        readonly llamafactory?: string;
    };
    /** The host that the artifact has stayed on: it is not in this store. */
    readonly at?: string;
}

/**
 * The runs and artifacts below one RETUNE_HOME; the layout is described at the top of runner/runner.py, which writes
 * it on a target. Runs are found by key, artifacts by digest, and nothing counts before it was verified.
 */
export class Store {
    private history: Promise<{ key: string; usedAt: number }[]> | undefined;
    private readonly read = new Map<string, Promise<Result | undefined>>();

    constructor(readonly home: string) {}

    runFolder(key: string): string {
        return path.join(this.home, "runs", key);
    }

    artifactFolder(digest: string): string {
        return path.join(this.home, "store", digest);
    }

    /** The result of a key whose artifact is there and unaltered, else undefined. */
    async find(key: string): Promise<Result | undefined> {
        const result = await this.result(key);
        return result && (await this.flaw(result)) === undefined ? result : undefined;
    }

    /** What a run said when it succeeded, whether or not its artifact still exists. */
    async result(key: string): Promise<Result | undefined> {
        const result = await readJson<Result>(path.join(this.runFolder(key), "result.json"));
        return isResultOf(key, result) ? result : undefined;
    }

    /** What a run was asked to do, or the client made and of which runs, as far as its job file still says so. */
    async job(key: string): Promise<(Partial<Job> & { readonly before?: readonly string[] }) | undefined> {
        return readJson(path.join(this.runFolder(key), "job.json"));
    }

    /** The job whose run had this artifact as its result; undefined where no run on a target is known to. */
    async jobOf(digest: string): Promise<Job | undefined> {
        const keys = await fs.promises.readdir(path.join(this.home, "runs")).catch(() => []);
        for (const key of keys) {
            if ((await this.result(key))?.digest !== digest) continue;
            const job = await this.job(key);
            if (job?.program !== undefined) return job as Job;
        }
        return undefined;
    }

    /**
     * The newest results of a kind, the newest first, as they were when this was first asked. Of a store with thousands
     * of runs no more is read than must be.
     */
    async newest(kind: string, most: number): Promise<Result[]> {
        this.history ??= this.lastUses();
        const found: Result[] = [];
        for (const { key, usedAt } of await this.history) {
            // A use moves a file's time on and never back: what was last used before these were made is older.
            if (found.length === most && usedAt < (found.at(-1)?.finishedAt ?? 0)) break;
            const reading = this.read.get(key) ?? this.result(key).catch(() => undefined);
            this.read.set(key, reading);
            const result = await reading;
            if (result?.kind !== kind) continue;
            found.push(result);
            found.sort((a, b) => b.finishedAt - a.finishedAt).splice(most);
        }
        return found;
    }

    private async lastUses(): Promise<{ key: string; usedAt: number }[]> {
        const keys = await fs.promises.readdir(path.join(this.home, "runs")).catch(() => []);
        const uses = keys.map(async (key) => {
            const stat = await fs.promises.stat(path.join(this.runFolder(key), "result.json")).catch(() => undefined);
            return { key, usedAt: (stat?.mtimeMs ?? 0) / 1000 };
        });
        return (await Promise.all(uses)).filter(({ usedAt }) => usedAt > 0).sort((a, b) => b.usedAt - a.usedAt);
    }

    /** What is wrong with a result's artifact as far as this machine can tell: who needs one that stays elsewhere, asks there. */
    async flaw(result: Result): Promise<string | undefined> {
        return result.at === undefined ? this.damage(result.digest) : undefined;
    }

    /** What is wrong with an artifact, in words; undefined when every file is there with its digest. */
    async damage(digest: string): Promise<string | undefined> {
        const folder = this.artifactFolder(digest);
        const manifest = await readJson<{ files: FileEntry[] }>(`${folder}.json`);
        if (manifest === undefined || !addUp(manifest.files, digest)) return "the artifact is gone";
        for (const file of manifest.files) {
            const place = path.join(folder, file.path);
            const stat = await fs.promises.stat(place).catch(() => undefined);
            if (stat === undefined) return `${file.path} is gone`;
            if (stat.size !== file.size || (await fileDigest(place)) !== file.sha256) return `${file.path} was altered`;
        }
        return undefined;
    }

    /** The SHA-256 of one file of an artifact; undefined where that has no such file, or is not here. */
    async digestOfFile(digest: string, name: string): Promise<string | undefined> {
        const manifest = await readJson<{ files: FileEntry[] }>(`${this.artifactFolder(digest)}.json`);
        if (manifest === undefined || !addUp(manifest.files, digest)) return undefined;
        return manifest.files.find((file) => file.path === name)?.sha256;
    }

    /**
     * Runs `make` in an empty folder and keeps what it leaves there as the result of a key: for the stages that run in
     * the client. Two clients at once do the work twice and store it once.
     */
    async make(
        run: {
            readonly key: string;
            readonly kind: string;
            readonly stage: string;
            readonly parameters: Json;
            /** Digests of what it is made of: they stay as long as it does. */
            readonly inputs?: Readonly<Record<string, string>>;
            /** Keys of the runs that it is made of. */
            readonly before?: readonly string[];
            /** What the runs were made on that it is made of. */
            readonly host?: Result["host"];
        },
        make: (folder: string) => Promise<Metrics>,
    ): Promise<Result> {
        const { host, ...job } = run;
        const { key, kind } = job;
        const folder = this.runFolder(key);
        const work = temporaryName(path.join(folder, "work"));
        const begin = Date.now() / 1000;
        const clock = performance.now(); // the one on the wall may be put meanwhile
        await fs.promises.mkdir(work, { recursive: true });
        await writeJson(path.join(folder, "job.json"), job);
        try {
            const metrics = await make(work);
            const files = await listFiles(work);
            const digest = digestOfFiles(files);
            await this.keep(work, digest, files);
            const took = (performance.now() - clock) / 1000;
            const times = { startedAt: begin, finishedAt: begin + took, seconds: Math.round(took * 10) / 10 };
            const result = { key, kind, digest, files, metrics, ...times, ...(host === undefined ? {} : { host }) };
            await this.record(result);
            return result;
        } finally {
            await fs.promises.rm(work, { recursive: true, force: true });
        }
    }

    /** Notes that a result was used: garbage collection counts from then. */
    async touch(result: Result): Promise<void> {
        await this.link(result);
        await fs.promises.utimes(path.join(this.runFolder(result.key), "result.json"), new Date(), new Date());
    }

    /** Where the run's link to its artifact does not lead there, in words. */
    async strayLink({ key, digest }: Pick<Result, "key" | "digest">): Promise<string | undefined> {
        const link = path.join(this.runFolder(key), "out");
        const leads = await fs.promises.readlink(link).catch(() => undefined);
        return leads === this.linkTo(digest) ? undefined : "its link to the artifact was altered";
    }

    /** Writes down a result whose artifact is in the store. */
    async record(result: Result): Promise<void> {
        const folder = this.runFolder(result.key);
        await this.link(result);
        await writeJson(path.join(folder, "result.json"), result);
        const { startedAt, finishedAt } = result;
        const state = { state: "succeeded", attempt: 1, queuedAt: startedAt, startedAt, finishedAt };
        await writeJson(path.join(folder, "state.json"), state);
    }

    private async link(result: Result): Promise<void> {
        if ((await this.strayLink(result)) === undefined) return;
        const out = path.join(this.runFolder(result.key), "out");
        const link = temporaryName(out);
        await fs.promises.symlink(this.linkTo(result.digest), link);
        // A folder that somebody has put in its place is put aside.
        if ((await fs.promises.lstat(out).catch(() => undefined))?.isDirectory() === true)
            await fs.promises.rename(out, temporaryName(out));
        await fs.promises.rename(link, out);
    }

    private linkTo(digest: string): string {
        return path.join("..", "..", "store", digest);
    }

    /** Moves a folder into the store, unless what it holds is there and undamaged. */
    async keep(work: string, digest: string, files: readonly FileEntry[]): Promise<void> {
        if ((await this.damage(digest)) === undefined) return;
        const place = this.artifactFolder(digest);
        await fs.promises.mkdir(path.dirname(place), { recursive: true });
        // What is damaged is moved away at once: removed file by file, it could take from what another client puts there.
        const aside = temporaryName(place);
        try {
            await unless("ENOENT", fs.promises.rename(place, aside));
            await unless("ENOTEMPTY", fs.promises.rename(work, place)); // another client has just put the same there
            await writeJson(`${place}.json`, { digest, files });
        } finally {
            await fs.promises.rm(aside, { recursive: true, force: true });
        }
    }
}

/** Waits for something that may fail with this code. */
async function unless(code: string, action: Promise<void>): Promise<void> {
    await action.catch((error: unknown) => {
        if ((error as NodeJS.ErrnoException).code !== code) throw error;
    });
}

/** Whether a result.json is whole and of its run: it may have been edited by hand, or copied from elsewhere. */
export function isResultOf(key: string, result: Partial<Result> | undefined): result is Result {
    return result?.key === key && typeof result.digest === "string" && addUp(result.files, result.digest);
}

function addUp(files: readonly FileEntry[] | undefined, digest: string): boolean {
    try {
        return digestOfFiles(files ?? []) === digest;
    } catch {
        return false;
    }
}

/** The object in a JSON file; undefined where there is none. A torn one cannot be: writes are atomic. */
export async function readJson<T extends object>(file: string): Promise<T | undefined> {
    const text = await fs.promises.readFile(file, "utf8").catch((error: unknown) => {
        if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
        throw error;
    });
    return text === undefined ? undefined : (parseJson(text) as T | undefined);
}

/** Temporary file, sync, rename: a reader sees the old content or the new one, also after a crash. */
export async function writeJson(file: string, value: unknown): Promise<void> {
    const temporary = temporaryName(file);
    try {
        const handle = await fs.promises.open(temporary, "w");
        try {
            await handle.writeFile(JSON.stringify(value, undefined, 1));
            await handle.sync();
        } finally {
            await handle.close();
        }
        await fs.promises.rename(temporary, file);
    } catch (error) {
        await fs.promises.rm(temporary, { force: true });
        throw error;
    }
}
