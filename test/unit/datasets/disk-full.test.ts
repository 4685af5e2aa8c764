import { mkdirSync, readdirSync, symlinkSync, writeFileSync } from "node:fs";
import type * as promises from "node:fs/promises";
import path from "node:path";
import { expect, test, vi } from "vitest";
import { convert } from "../../../datasets/convert";
import { huatuoLite } from "../../../datasets/huatuo-lite";
import { temporaryFolder } from "./folder";

vi.mock("node:fs/promises", async (original) => {
    const real = await original<typeof promises>();
    const mkdir = async (folder: string): Promise<void> => {
        await real.mkdir(folder);
        symlinkSync("/dev/full", path.join(folder, "train.jsonl"));
    };
    return { ...real, mkdir };
});

test.runIf(process.platform === "linux")("a full disk is named with its folder, and nothing is left", async () => {
    const folder = temporaryFolder();
    const file = path.join(folder, "r.jsonl");
    const into = path.join(folder, "out");
    mkdirSync(into);
    writeFileSync(file, '{"question":"q","answer":"a","label":"l"}\n');
    const split = { validation: 0, test: 0, seed: 1 };
    await expect(convert({ files: [file], recipe: huatuoLite, limit: undefined, split, into })).rejects.toThrow(
        `No space is left on the disk of ${into}: free some, then run it again.`,
    );
    expect(readdirSync(into)).toEqual([]);
});
