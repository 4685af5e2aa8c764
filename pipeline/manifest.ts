import * as fs from "node:fs";
import * as path from "node:path";
import { execFileSync } from "node:child_process";
import { z } from "zod";
import { project } from "../scripts/locations.cjs";
import { digest, group, problemsOf } from "./fields";
import { fileDigest, isObject, sha256, type Json, type JsonObject } from "./identity";
import { UserError } from "./user-error";

/** Of `retune.json`. It grows when an older Retune could not start from it any more. */
export const MANIFEST_VERSION = 1;

const part = z.record(z.string(), z.unknown());

/** What of a manifest a run is started from; the rest is for people. */
const manifestSchema = z.looseObject({
    /** As under `retune:` in a stack's file, with all defaults. */
    configuration: group({ model: part, dataset: part, training: part, evaluation: part }, "the configuration"),
    /** The data by content: digests of the files, or a repository's commit. */
    data: part,
    /** By which the gate accepted the model, where it had failed. */
    override: part.optional(),
    /** The base model by content. */
    base: part,
    dataset: digest("the digest of a data set"),
    model: digest("the digest of a model"),
    trained: digest("the digest of a training"),
});

export interface Manifest {
    readonly file: string;
    /**
     * The parts of the configuration, with branches replaced by the commits that they stood for, and without addresses:
     * where the user's tokens and keys go is not for the author of a manifest to say.
     */
    readonly configuration: Readonly<Record<string, Json>>;
    readonly digests: Readonly<Record<"dataset" | "model" | "training", string>>;
}

/**
 * Reads the manifest of an exported model.
 *
 * @param place `retune.json` or the folder that it is in.
 * @param dataFile where the data is now, if not where the manifest says; only of data that was a file.
 * @throws UserError when it is missing, no manifest, of a newer version, or not as it was written; when a data file is
 * missing or another one.
 */
export async function readManifest(place: string, dataFile: string | undefined): Promise<Manifest> {
    const file = fs.statSync(place, { throwIfNoEntry: false })?.isDirectory() ? path.join(place, "retune.json") : place;
    let text: string;
    try {
        text = fs.readFileSync(file, "utf8");
    } catch (error) {
        throw new UserError(`--from: ${file} cannot be read: ${(error as Error).message}`);
    }
    const json = parsed(text, file);
    const version = json["retune"];
    if (typeof version !== "number") {
        throw new UserError(`--from: ${file} is not the manifest of a model that Retune exported: it has no version`);
    }
    if (version > MANIFEST_VERSION) {
        const known = `this Retune knows versions up to ${MANIFEST_VERSION}`;
        throw new UserError(`--from: ${file} is of version ${version}, but ${known}: take a newer one`);
    }
    const read = manifestSchema.safeParse(json);
    if (!read.success) {
        const problems = problemsOf(read.error).map((problem) => `  ${problem.path}: ${problem.message}`);
        throw new UserError(`--from: ${file} is not whole:\n${problems.join("\n")}`);
    }
    const written = /^\{\s*"checksum": "([0-9a-f]{64})"/.exec(text)?.[1];
    if (written !== sha256(text.replace(/"checksum": "[0-9a-f]*"/, '"checksum": ""'))) {
        throw new UserError(
            `--from: ${file} was edited after it was written: take the one of the exported model; ` +
                "settings are changed with --set, such as --set training.learningRate=1e-4",
        );
    }
    const { configuration, data, base, dataset, model, trained, override } = read.data;
    const settings = configuration as unknown as Readonly<Record<string, JsonObject>>;
    await checkDataFile(file, settings["dataset"]?.["source"], data as JsonObject, dataFile);
    return {
        file,
        configuration: {
            ...settings,
            dataset: pinned(settings["dataset"] ?? {}, data as JsonObject),
            model: pinned(settings["model"] ?? {}, base as JsonObject),
            evaluation: overridden(
                withoutPlaceOfJudge(settings["evaluation"] ?? {}),
                override as JsonObject | undefined,
            ),
        },
        digests: { dataset, model, training: trained },
    };
}

function parsed(text: string, file: string): JsonObject {
    try {
        const json: unknown = JSON.parse(text);
        if (isObject(json)) return json;
    } catch (error) {
        throw new UserError(`--from: ${file} is not JSON: ${(error as Error).message}`);
    }
    throw new UserError(`--from: ${file} is not a JSON object`);
}

/** Without a mirror, and with the commit: a branch may have moved on since. */
function pinned(settings: JsonObject, { commit }: JsonObject): JsonObject {
    if (!isObject(settings["source"])) return settings;
    const { endpoint: _endpoint, ...source } = settings["source"];
    const isPinned = "revision" in source && typeof commit === "string";
    return { ...settings, source: isPinned ? { ...source, revision: commit } : source };
}

/** Which judge scored, and neither where it was asked nor with what key. */
function withoutPlaceOfJudge({ judge, ...settings }: JsonObject): JsonObject {
    return isObject(judge) ? { ...settings, judge: { model: judge["model"] } } : settings;
}

/** The model that comes out again is accepted again. */
function overridden(settings: JsonObject, override: JsonObject | undefined): JsonObject {
    if (override === undefined) return settings;
    const { gate } = settings;
    return { ...settings, gate: { ...(isObject(gate) ? gate : {}), override } };
}

async function checkDataFile(
    manifest: string,
    source: Json | undefined,
    data: JsonObject,
    elsewhere: string | undefined,
): Promise<void> {
    if (!isObject(source) || typeof source["file"] !== "string") return;
    const file = path.resolve(project, elsewhere ?? source["file"]);
    const [wanted] = Array.isArray(data["files"]) ? (data["files"] as readonly Json[]) : [];
    const found = fs.existsSync(file) ? await fileDigest(file) : undefined;
    if (found === wanted) return;
    const is = found === undefined ? `there is no file ${file}` : `${file} is another file (SHA-256 ${found})`;
    throw new UserError(
        `--from: the model of ${manifest} was made from a file with SHA-256 ${typeof wanted === "string" ? wanted : "that is not said"}, but ${is}: ` +
            "put it there, or name it with --set dataset.source.file=FILE",
    );
}

/** Which results are what the manifest says, in one line. */
export function comparedWith(manifest: Manifest, digests: ReadonlyMap<string, string | undefined>): string {
    const names = Object.keys(manifest.digests) as (keyof Manifest["digests"])[];
    const same = names.filter((name) => digests.get(name) === manifest.digests[name]);
    const other = names.filter((name) => !same.includes(name));
    const lists = [
        ...(same.length > 0 ? [`as in the manifest: ${same.join(", ")}`] : []),
        ...(other.length > 0 ? [`different: ${other.join(", ")}`] : []),
    ];
    return `${manifest.file}: ${lists.join("; ")}`;
}

/** What a manifest says of the code: the commit, and whether what makes results was changed since; null without git. */
export function codeRevision(): JsonObject | null {
    const git = (...args: readonly string[]): string =>
        execFileSync("git", ["-C", project, ...args], { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] }).trim();
    try {
        // A checkout may lie in a folder of another repository, whose commit says nothing.
        if (fs.realpathSync(git("rev-parse", "--show-toplevel")) !== fs.realpathSync(project)) return null;
        const changed = git("status", "--porcelain", "--", "index.ts", "pipeline", "datasets", "infra");
        return { revision: git("rev-parse", "HEAD"), modified: changed !== "" };
    } catch {
        return null;
    }
}
