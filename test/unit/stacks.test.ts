import { mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { gzipSync } from "node:zlib";
import { beforeEach, describe, expect, onTestFinished, test, vi } from "vitest";
import { gc } from "../../scripts/gc";
import { noteReading } from "../../pipeline/executor/meter";
import { readRoots, readStacks, writeRoots } from "../../scripts/stacks";
import { status } from "../../scripts/status";
import { temporaryFolder } from "./datasets/folder";

let home: string;
let file: string;

beforeEach(() => {
    home = temporaryFolder();
    vi.stubEnv("RETUNE_HOME", home);
    file = path.join(home, "state", ".pulumi", "stacks", "retune", "dev.json");
    mkdirSync(path.dirname(file), { recursive: true });
    onTestFinished(() => {
        vi.unstubAllEnvs();
    });
});

const urn = "urn:pulumi:dev::retune::finetune:pipeline:Model::model";
const resources = [{ type: "finetune:pipeline:Model", urn, outputs: { key: "k" } }];

describe("a stack's state", () => {
    test.each([{ version: 3 }, { version: 4, features: ["hooks"] }])("gives its stages, %j", (made) => {
        writeFileSync(file, JSON.stringify({ ...made, checkpoint: { latest: { resources } } }));
        expect(readStacks()).toEqual([
            {
                stack: "dev",
                stages: [{ name: "model", type: "finetune:pipeline:Model", inputs: {}, outputs: { key: "k" } }],
            },
        ]);
    });

    test("gives them also where Pulumi packs it", () => {
        const state = JSON.stringify({ version: 3, checkpoint: { latest: { resources } } });
        writeFileSync(`${file}.gz`, gzipSync(state));
        expect(readStacks().map(({ stack, stages }) => [stack, stages.length])).toEqual([["dev", 1]]);
    });

    test("kept elsewhere, leaves what it used until an update has come to its end", () => {
        vi.stubEnv("PULUMI_BACKEND_URL", "file:///elsewhere");
        const keys = () => readRoots().map(({ keys }) => keys);
        writeRoots("dev", ["a", "b"], true);
        writeRoots("dev", ["c"], false); // failed half-way
        expect(keys()).toEqual([["a", "b", "c"]]);
        writeRoots("dev", [], false);
        expect(keys()).toEqual([["a", "b", "c"]]);
        writeRoots("dev", ["c"], true);
        expect(keys()).toEqual([["c"]]);
        writeRoots("dev", [], true);
        expect(keys()).toEqual([]);
    });

    test.each([
        [
            "of a newer Pulumi",
            JSON.stringify({ version: 5, features: ["new"], checkpoint: {} }),
            (at: string) => `${at} is a state of version 5, but this Retune knows 4: a newer Pulumi has written it`,
        ],
        [
            "cut short",
            '{"version": 3, "chec',
            (at: string) => `${at} is no state of Pulumi; the one before it is ${at}.bak`,
        ],
        ["without a checkpoint", "{}", (at: string) => `${at} is no state of Pulumi; the one before it is ${at}.bak`],
    ])("that is %s is named by status, and keeps gc from removing anything", async (_, content, problem) => {
        writeFileSync(file, content);
        expect(readStacks()).toEqual([{ stack: "dev", stages: [], problem: problem(file) }]);
        const said = heard();
        expect(await status([])).toBe(0);
        expect(said.join("")).toBe(`stack dev\n  ${problem(file)}\n`);
        await expect(gc(["--grace-days", "0"])).rejects.toThrow(
            `nothing is removed, because what stack dev uses is not known: ${problem(file)}`,
        );
    });

    test.each(["{}", "[1]", "["])("pins that are %s keep gc from removing anything", async (content) => {
        const pins = path.join(home, "pins.json");
        writeFileSync(pins, content);
        await expect(gc([])).rejects.toThrow(
            `${pins} is no list of runs: put it right, or remove it if nothing of it is to stay`,
        );
    });
});

test("status tells what a machine has cost, as of when it was last asked", async () => {
    await noteReading(home, { machine: "i-0123", seconds: 5400, pricePerHour: 1.006, budget: 10, at: 0 });
    const said = heard();
    expect(await status([])).toBe(0);
    expect(await status(["--json"])).toBe(0);
    expect(said[0]).toMatch(/^machines\n {2}i-0123 +\$1\.51 of \$10\.00 for 1 h 30 min awake, as of .+\n$/);
    expect(JSON.parse(said[1] ?? "")).toMatchObject({ machines: [{ machine: "i-0123", seconds: 5400, budget: 10 }] });
});

/** What is written to stdout from now on, which then goes nowhere else. */
function heard(): string[] {
    const said: string[] = [];
    vi.spyOn(process.stdout, "write").mockImplementation((text) => {
        said.push(String(text));
        return true;
    });
    onTestFinished(() => {
        vi.restoreAllMocks();
    });
    return said;
}
