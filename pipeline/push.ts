import { createHash } from "node:crypto";
import * as fs from "node:fs";
import * as path from "node:path";
import { pipeline } from "node:stream/promises";
import type { z } from "zod";
import { address, digest, flag, group, text } from "./fields";
import type { FileEntry } from "./identity";

/** Whether the first push may replace files of the same names that somebody else has put there. */
const overwriteField = flag().optional();

const huggingfaceSettings = group(
    {
        repository: text("owner/name of a model on Hugging Face").regex(
            // As huggingface_hub has it, which would say so only after the training.
            /^(?!.*(?:--|\.\.|\.git$))(?=.{1,96}$)\w[\w.-]*\/\w(?:[\w.-]*\w)?$/,
            "expected owner/name, of letters, digits, - . and _, without -- or .., and not ending with - . or .git",
        ),
        private: flag().default(true),
        endpoint: address("https://hub.example.com").optional(),
        overwrite: overwriteField,
    },
    "a repository, such as { repository: owner/name }",
);

const s3Settings = group(
    {
        bucket: text("the name of a bucket").regex(
            /^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/,
            "expected the name of a bucket: 3 to 63 small letters, digits, - and .",
        ),
        /** The folder in it; without one, the bucket holds the model and nothing else. */
        prefix: text("a folder such as models/cold")
            .regex(/^[^/\s][^\s]*[^/\s]$|^[^/\s]$/, "expected a folder such as models/cold, without / at its ends")
            .optional(),
        region: text("a region such as eu-central-1").optional(),
        /** Of a store that speaks S3's protocol. */
        endpoint: address("https://s3.example.com").optional(),
        overwrite: overwriteField,
    },
    "a bucket, such as { bucket: models, prefix: cold }",
);

/** `retune:push`: where copies of the exported model are kept. */
export const pushSettings = { huggingface: huggingfaceSettings.optional(), s3: s3Settings.optional() };

export const pushFields = {
    /** The exported one. */
    model: digest("the digest of an export"),
    ...pushSettings,
};

export type PushInputs = z.infer<z.ZodObject<typeof pushFields>>;
export type HuggingFaceSettings = z.infer<typeof huggingfaceSettings>;
export type S3Settings = z.infer<typeof s3Settings>;

/** Files by path, each with a digest of the kind that the place tells: "sha256 …", "git …" (a blob's), "md5 …" or "size …". */
export type Listing = Readonly<Record<string, string>>;

/** What a place has. */
export interface Seen {
    readonly files: Listing;
    /** What is wrong besides the files, such as "it is public". */
    readonly amiss?: string | undefined;
    /** Names this state of it, such as a commit. */
    readonly version?: string | undefined;
}

/** What makes a place a copy of a folder. */
export interface Difference {
    /** Paths of the files that it lacks, or has with another content. */
    readonly send: readonly string[];
    /** Paths of what was sent there before, and is not in the folder any more. */
    readonly remove: readonly string[];
    /** What it has besides: somebody else's, which stays. */
    readonly others: readonly string[];
}

/** Somewhere that keeps a copy of an exported model. */
export interface Place {
    /** Its address, for people. */
    readonly uri: string;
    /** What it has, without a download; undefined where it does not exist. Throws UserError where it does not say. */
    look(): Promise<Seen | undefined>;
    /**
     * Makes it a copy of a folder, from what was seen last. A reader never takes half of it for the whole.
     *
     * @throws UserError where it refuses; what it had before stays.
     */
    change(folder: string, difference: Difference, seen: Seen | undefined): Promise<void>;
}

/** What a place lacks of a folder, by digest, and has besides; `sent` is what a stack has put there before. */
export async function differenceOf(
    folder: string,
    files: readonly FileEntry[],
    there: Listing,
    sent: Listing,
): Promise<Difference> {
    const send: string[] = [];
    for (const file of files) {
        const known = there[file.path];
        if (known === undefined || known !== (await digestLike(known, folder, file))) send.push(file.path);
    }
    const own = new Set(files.map((file) => file.path));
    const besides = Object.keys(there).filter((name) => !own.has(name));
    return {
        send,
        remove: besides.filter((name) => sent[name] !== undefined),
        others: besides.filter((name) => sent[name] === undefined),
    };
}

/**
 * Files of a place that hinder a first push: somebody else's beside the copy, and those that it would replace. What is
 * there exactly as it is to be may be of a push that was broken off.
 */
export function foreignIn({ send, others }: Difference, there: Listing): string[] {
    return [...others, ...send.filter((name) => there[name] !== undefined)];
}

/** What has become of a copy, in words; undefined where it is what it was, whatever others keep beside it. */
export function driftOfCopy(was: Listing, seen: Seen | undefined, uri: string): string | undefined {
    if (seen === undefined) return `${uri} is gone`;
    const all = Object.keys(was);
    const lacks = all.filter((name) => seen.files[name] === undefined);
    if (all.length > 0 && lacks.length === all.length) return `${uri} has none of the ${all.length} files`;
    const altered = all.filter((name) => seen.files[name] !== undefined && seen.files[name] !== was[name]);
    const parts = [
        lacks.length > 0 ? `lacks ${named(lacks)}` : "",
        altered.length > 0 ? `has ${named(altered)} with another content` : "",
        seen.amiss ?? "",
    ].filter((part) => part !== "");
    return parts.length === 0 ? undefined : `${uri} ${parts.join("; ")}`;
}

/** A few names of many. */
export function named(names: readonly string[]): string {
    const shown = names.slice(0, 3).join(", ");
    return names.length > 3 ? `${shown} and ${names.length - 3} more` : shown;
}

/** The digest of a file, of the kind that another one is. */
async function digestLike(known: string, folder: string, { path: name, size, sha256 }: FileEntry): Promise<string> {
    const kind = known.split(" ", 1)[0];
    if (kind === "sha256") return `sha256 ${sha256}`;
    const hash = createHash(kind === "md5" ? "md5" : "sha1");
    // What git takes the digest of.
    if (kind === "git") hash.update(`blob ${size}\0`);
    await pipeline(fs.createReadStream(path.join(folder, name)), hash);
    return `${kind ?? ""} ${hash.digest("hex")}`;
}
