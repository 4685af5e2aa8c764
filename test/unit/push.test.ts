import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { expect, onTestFinished, test, vi } from "vitest";
import { listFiles, sha256 } from "../../pipeline/identity";
import { differenceOf, driftOfCopy, foreignIn } from "../../pipeline/push";
import { HuggingFacePlace } from "../../pipeline/push/huggingface";
import { UserError } from "../../pipeline/user-error";

test("only what the stack has sent before, and sends no more, is removed", async () => {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), "retune-push-"));
    onTestFinished(() => {
        fs.rmSync(folder, { recursive: true });
    });
    for (const name of ["same", "altered", "lacking"]) fs.writeFileSync(path.join(folder, name), name);
    const there = {
        "same": `sha256 ${sha256("same")}`,
        "altered": `sha256 ${sha256("else")}`,
        "shard-2": "size 1",
        "cold/config.json": "size 2",
    };
    const difference = (sent: Record<string, string>) =>
        listFiles(folder).then((files) => differenceOf(folder, files, there, sent));
    expect(await difference({ "same": "size 4", "shard-2": "size 1", "shard-3": "size 1" })).toEqual({
        send: ["altered", "lacking"],
        remove: ["shard-2"],
        others: ["cold/config.json"],
    });
    const first = await difference({});
    expect(first).toMatchObject({ remove: [], others: ["shard-2", "cold/config.json"] });
    // A first push replaces nothing, but sends what lacks and keeps what is there already.
    expect(foreignIn(first, there)).toEqual(["shard-2", "cold/config.json", "altered"]);
});

test("files of others beside a copy are no drift", () => {
    const was = { "config.json": "size 1", "model.safetensors": "size 2" };
    const drift = (files: Record<string, string>) => driftOfCopy(was, { files }, "s3://models");
    expect(drift({ ...was, "cold/config.json": "size 3" })).toBeUndefined();
    expect(drift({ "config.json": "size 3", "notes.txt": "size 4" })).toBe(
        "s3://models lacks model.safetensors; has config.json with another content",
    );
    expect(drift({ "notes.txt": "size 4" })).toBe("s3://models has none of the 2 files");
    expect(driftOfCopy(was, undefined, "s3://models")).toBe("s3://models is gone");
});

test("a token that no header could carry is refused before anything is sent, and is not repeated", async () => {
    vi.stubEnv("HF_TOKEN", "hf_canary\nsecond");
    onTestFinished(() => {
        vi.unstubAllEnvs();
    });
    const settings = { repository: "someone/cold", private: true, endpoint: "http://127.0.0.1:9" };
    await expect(new HuggingFacePlace(settings, new AbortController().signal).look()).rejects.toThrow(
        new UserError("HF_TOKEN is no key: it holds a line break or another character that no key has"),
    );
});
