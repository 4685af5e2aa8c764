import { z } from "zod";
import { changesBetween, type Change } from "../changes";
import { hasUnknown, keyOf, listFiles, UNKNOWN, type JsonObject } from "../identity";
import {
    differenceOf,
    driftOfCopy,
    foreignIn,
    named,
    pushFields,
    type Listing,
    type Place,
    type PushInputs,
} from "../push";
import { HuggingFacePlace } from "../push/huggingface";
import { S3Place } from "../push/s3";
import type { Store } from "../store/store";
import { UserError } from "../user-error";
import {
    checkFields,
    driftOf,
    Interrupted,
    reasonsFor,
    type Checked,
    type Log,
    type ResourceLifecycle,
} from "./lifecycle";
import { plain, withoutNulls } from "./values";

/**
 * What happens to a copy of an export over its life. It is sent by the client, whose store has every export, so that the way
 * is the same for all targets and no target gets to see a token. What the place had afterwards is in the state: a refresh
 * compares listings, and downloads nothing.
 */
export class PushLifecycle implements ResourceLifecycle {
    constructor(
        private readonly store: Store,
        private readonly log: Log,
        private readonly cancelled: AbortSignal,
    ) {}

    check(_urn: string, news: JsonObject): Promise<Checked> {
        return Promise.resolve(checkFields(pushFields, withoutNulls(news)));
    }

    diff(_urn: string, oldInputs: JsonObject, oldOutputs: JsonObject, news: JsonObject): Change[] {
        return [...changesBetween(plain(oldInputs), plain(news)), ...driftOf(oldOutputs)];
    }

    preview(urn: string, news: JsonObject, olds: JsonObject | undefined, oldInputs: JsonObject | undefined) {
        const inputs = plain(news);
        const changes = changesBetween(plain(oldInputs ?? {}), inputs);
        const why = olds === undefined ? "new" : reasonsFor(changes, olds).join("; ");
        this.log(urn, `would push: ${why}`, { ephemeral: false });
        const uri = hasUnknown({ ...inputs, model: null }) ? UNKNOWN : this.place(inputs).uri;
        const key = hasUnknown(inputs) ? UNKNOWN : keyOf("Push", inputs);
        return Promise.resolve({ key, digest: inputs["model"], uri, action: "would-run" });
    }

    /** Sends what the place lacks, by digest. Throws UserError where it is somebody else's, or refuses. */
    async apply(
        urn: string,
        news: JsonObject,
        olds: JsonObject | undefined,
        oldInputs: JsonObject | undefined,
    ): Promise<JsonObject> {
        const inputs = z.object(pushFields).parse(plain(news));
        const { model } = inputs;
        const place = this.place(inputs);
        const began = Date.now();
        try {
            if (this.cancelled.aborted) throw new Interrupted(olds ?? {});
            const damage = await this.store.damage(model);
            if (damage !== undefined) {
                const wayOut = "`npm run refresh`, then `npm run up` bring it back";
                throw new UserError(`the exported model is not pushed, for it is not whole: ${damage}; ${wayOut}`);
            }
            const folder = this.store.artifactFolder(model);
            const files = await listFiles(folder);
            this.log(urn, `comparing with ${place.uri}`, { ephemeral: true });
            const seen = await place.look();
            const wasHere = oldInputs !== undefined && this.placeBefore(oldInputs)?.uri === place.uri;
            const before = wasHere ? (olds?.["copy"] as Listing | undefined) : undefined;
            const difference = await differenceOf(folder, files, seen?.files ?? {}, before ?? {});
            const { send, remove, others } = difference;
            if (before === undefined) refuseForeign(inputs, place, foreignIn(difference, seen?.files ?? {}));
            this.tellOthers(urn, others, place);
            const bytes = files.reduce((sum, { path, size }) => sum + (send.includes(path) ? size : 0), 0);
            const isSame = send.length + remove.length === 0 && seen !== undefined && seen.amiss === undefined;
            if (!isSame) {
                this.log(urn, `sending ${count(send.length)} to ${place.uri}`, { ephemeral: true });
                await place.change(folder, difference, seen);
            }
            const now = isSame ? seen : await place.look();
            const left = await differenceOf(folder, files, now?.files ?? {}, {});
            if (now === undefined || left.send.length > 0) {
                throw new UserError(
                    `${place.uri} took the files, but does not have ${named(left.send)} as they are here`,
                );
            }
            this.leave(urn, oldInputs, place);
            const copy = Object.fromEntries(files.map((file) => [file.path, now.files[file.path] ?? ""]));
            return {
                key: keyOf("Push", plain(news)),
                digest: model,
                uri: place.uri,
                facts: { files: files.length, sent: send.length, removed: remove.length, bytes },
                copy,
                ...(now.version === undefined ? {} : { version: now.version }),
                seconds: Math.round((Date.now() - began) / 100) / 10,
                finishedAt: new Date().toISOString(),
                action: isSame ? "cached" : "ran",
            };
        } catch (error) {
            // What was sent is there, and is not sent again.
            if (this.cancelled.aborted) throw new Interrupted(olds ?? {});
            throw error;
        }
    }

    /** The old outputs, with `drift` where the place is no copy any more. Of one that does not answer nothing is known. */
    async read(urn: string, oldInputs: JsonObject, outputs: JsonObject): Promise<JsonObject> {
        const { drift: _drift, ...rest } = outputs;
        const place = this.placeBefore(oldInputs);
        const copy = outputs["copy"];
        if (place === undefined || copy === undefined) return outputs;
        try {
            const was = copy as Listing;
            const seen = await place.look();
            const others = Object.keys(seen?.files ?? {}).filter((name) => was[name] === undefined);
            this.tellOthers(urn, others, place);
            const drift = driftOfCopy(was, seen, place.uri);
            return drift === undefined ? rest : { ...rest, drift };
        } catch (error) {
            if (!(error instanceof UserError)) throw error;
            this.log(urn, `${error.message}: taken as it was`, { ephemeral: false, warning: true });
            return outputs;
        }
    }

    /** A copy that others may use is not taken from them. */
    delete(urn: string, oldInputs: JsonObject): Promise<void> {
        this.leave(urn, oldInputs, undefined);
        return Promise.resolve();
    }

    /** Says of files beside the copy, which are somebody else's, that they stay. */
    private tellOthers(urn: string, others: readonly string[], { uri }: Place): void {
        if (others.length === 0) return;
        const words = `${uri} has besides ${named(others)}, which this stack has not put there: left alone`;
        this.log(urn, words, { ephemeral: false, warning: true });
    }

    /** Says of a copy that is no longer the stack's that it stays. */
    private leave(urn: string, oldInputs: JsonObject | undefined, now: Place | undefined): void {
        const was = oldInputs === undefined ? undefined : this.placeBefore(oldInputs);
        if (was === undefined || was.uri === now?.uri) return;
        const words = `the copy at ${was.uri} stays as it is: remove it there if nobody needs it`;
        this.log(urn, words, { ephemeral: false, warning: true });
    }

    private placeBefore(oldInputs: JsonObject): Place | undefined {
        const inputs = plain(oldInputs);
        return "huggingface" in inputs || "s3" in inputs ? this.place(inputs) : undefined;
    }

    private place(inputs: JsonObject): Place {
        const { huggingface, s3 } = inputs as unknown as PushInputs;
        if (huggingface !== undefined) return new HuggingFacePlace(huggingface, this.cancelled);
        if (s3 !== undefined) return new S3Place(s3, this.cancelled);
        throw new UserError("a push goes to huggingface or to s3: neither is given");
    }
}

/** The first time a place is not known to be this stack's: what somebody else keeps there is theirs to give up. */
function refuseForeign({ huggingface, s3 }: PushInputs, { uri }: Place, foreign: readonly string[]): void {
    if (foreign.length === 0 || (huggingface ?? s3)?.overwrite === true) return;
    const setting = `push.${huggingface === undefined ? "s3" : "huggingface"}.overwrite`;
    throw new UserError(
        `${uri} has files that this stack has not put there, or no longer knows of (${named(foreign)}): name an empty place, or remove them, ` +
            `or set ${setting} to true, which replaces those that have the same names as the model's`,
    );
}

function count(files: number): string {
    return files === 1 ? "1 file" : `${files} files`;
}
