import * as fs from "node:fs";
import * as path from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Json } from "../../pipeline/identity";
import {
    canonical,
    contentBeforehand,
    differing,
    EDITS,
    fieldsOf,
    FIRST,
    ofTheModel,
    write,
    type Description,
} from "./description";
import { eventually, isAlive, killNow } from "./processes";
import { all, listing, Rig, STAGES, type Answer, type StageName } from "./rig";

/*
 * Random edits of a description, with the real engine, provider and runner. The programs of the target are stand-ins,
 * whose result is a function of what they are given. A failure prints the seed, the path and the edits.
 */

type Fields = ReadonlyMap<string, Json>;
type Edit = Partial<Description>;

const edits: readonly Edit[] = Object.entries(EDITS).flatMap(([name, values]) =>
    (values as readonly unknown[]).map((value): Edit => ({ [name]: value })),
);
const edit = fc.constantFrom(...edits);

/** Three edits and a look at the plan; an update with three more; and, as `git revert` does it, back to an earlier update. */
interface Round {
    readonly planned: readonly Edit[];
    readonly updated: readonly Edit[];
    readonly back: number;
}
/** Every edit once, in any order. */
const rounds: fc.Arbitrary<Round[]> = fc
    .tuple(
        fc.shuffledSubarray([...edits], { minLength: edits.length }),
        fc.array(fc.nat(), { minLength: edits.length, maxLength: edits.length }),
    )
    .map(([order, backs]) =>
        Array.from({ length: Math.ceil(order.length / 6) }, (_, i) => ({
            planned: order.slice(6 * i, 6 * i + 3),
            updated: order.slice(6 * i + 3, 6 * i + 6),
            back: backs[i] ?? 0,
        })),
    );

interface Expected {
    readonly action: "unchanged" | "would-reuse" | "would-run";
    readonly reasons: readonly string[];
}

/** What the test knows of a home: which results are there, and what the stack last had. */
class Account {
    /** What the stack was updated to, in order. */
    readonly history: Description[] = [];
    /** Digests by stage and fields: every result that was ever made. */
    private readonly results = new Map<string, string>();
    /** Digests by what is known beforehand. */
    private readonly contents = new Map<string, string>();
    private readonly applied = new Map<StageName, Fields>();
    /** The folder that the model was last taken from; the same one under another name is not taken again. */
    private folder: string | undefined;
    /** Its digest. */
    private model: string | undefined;
    /** What of the descriptions was trained. */
    readonly trained = new Set<string>();

    constructor(private readonly rig: Rig) {}

    /** What a preview must say, as far as it goes by what was made before; digests are those that it may know. */
    expected(description: Description): Record<StageName, Expected> {
        const digests = new Map<StageName, string>();
        const entries = STAGES.map((stage): [StageName, Expected] => {
            const fields = this.fields(stage, description, digests);
            const before = this.applied.get(stage);
            const named = (field: string) => (fields.get(field) === "unknown" ? `${field}, not known yet` : field);
            const reasons = before === undefined ? [] : differing(before, fields).map(named);
            const known = this.results.get(this.name(stage, fields));
            const content = contentBeforehand(stage, description);
            const foreseen = content === undefined ? undefined : this.contents.get(`${stage} ${content}`);
            // New content has a digest that is new: any text that was never seen stands for it.
            digests.set(stage, known ?? foreseen ?? (content === undefined ? "unknown" : `new ${content}`));
            if (before !== undefined && reasons.length === 0) return [stage, { action: "unchanged", reasons }];
            return [stage, { action: known === undefined ? "would-run" : "would-reuse", reasons }];
        });
        return Object.fromEntries(entries) as Record<StageName, Expected>;
    }

    /** Takes down what an update has made, and looks that the same fields have given the same digest as ever. */
    took(description: Description, answer: Answer): void {
        const digests = new Map<StageName, string>();
        for (const { name, digest = "", action } of answer.stages as (Answer["stages"][number] & {
            name: StageName;
        })[]) {
            expect([name, action, digest]).toEqual([name, action, expect.stringMatching(/^[0-9a-f]{64}$/)]);
            digests.set(name, digest);
            const fields = this.fields(name, description, digests);
            const key = this.name(name, fields);
            expect([name, this.results.get(key) ?? digest]).toEqual([name, digest]);
            this.results.set(key, digest);
            const content = contentBeforehand(name, description);
            if (content !== undefined) {
                const of = `${name} ${content}`;
                expect([of, this.contents.get(of) ?? digest]).toEqual([of, digest]);
                this.contents.set(of, digest);
            }
            this.applied.set(name, fields);
        }
        const { model } = description;
        if (digests.get("model") !== this.model) {
            this.model = digests.get("model");
            this.folder = "folder" in model ? model.folder : undefined;
        }
        this.trained.add(ofTheModel(description));
        this.history.push(description);
    }

    private fields(stage: StageName, description: Description, digests: ReadonlyMap<StageName, string>): Fields {
        const folder = digests.get("model") === this.model ? this.folder : undefined;
        return fieldsOf(stage, this.rig, description, folder, (of) => digests.get(of) ?? "unknown");
    }

    private name(stage: StageName, fields: Fields): string {
        return `${stage} ${canonical(Object.fromEntries(fields))}`;
    }
}

const reasonsOf = (answer: Answer) =>
    Object.fromEntries(
        answer.stages.map(({ name, reasons }) => [
            name,
            reasons.map((one) => (one.new === "unknown" ? `${one.field}, not known yet` : one.field)).sort(),
        ]),
    );

/** To make a failure smaller would take hours. */
const RUNS = { endOnFailure: true };

describe("random edits of a description", () => {
    let rig: Rig;
    let homes = 0;
    beforeAll(() => {
        rig = new Rig({ standIns: true });
        rig.environment["RCLONE_CONFIG"] = "/dev/null";
    });
    afterAll(() => rig.dispose());

    const trainings = () => rig.runs("Training").map(({ key, attempt }) => ({ key, attempt }));
    const fresh = async () => {
        homes += 1;
        rig.home = path.join(rig.folder, `home-${homes}`);
        fs.rmSync(path.join(rig.folder, "mirror"), { recursive: true, force: true });
        const account = new Account(rig);
        write(rig, FIRST);
        const { code, answer, actions } = await rig.json("up");
        expect({ code, actions }).toEqual({ code: 0, actions: all("ran") });
        account.took(FIRST, answer);
        return account;
    };
    /** A second update does nothing, and leaves everything as it is. */
    const expectSettled = async () => {
        const before = [...listing(path.join(rig.home, "runs")), ...listing(path.join(rig.home, "store"))];
        const { code, actions } = await rig.json("up");
        expect({ code, actions }).toEqual({ code: 0, actions: all("unchanged") });
        expect([...listing(path.join(rig.home, "runs")), ...listing(path.join(rig.home, "store"))]).toEqual(before);
    };

    /** Previews a description, and compares with what the account says. */
    const plan = async (account: Account, description: Description) => {
        const expected = account.expected(description);
        write(rig, description);
        const { code, answer, actions } = await rig.json("preview");
        const want = Object.entries(expected);
        const reasons = Object.fromEntries(want.map(([name, one]) => [name, one.reasons]));
        expect({ code, actions }).toEqual({
            code: 0,
            actions: Object.fromEntries(want.map(([name, { action }]) => [name, action])),
        });
        expect(reasonsOf(answer)).toEqual(reasons);
        const becomes = { "unchanged": "unchanged", "would-reuse": "cached", "would-run": "ran" };
        return { reasons, done: Object.fromEntries(want.map(([name, { action }]) => [name, becomes[action]])) };
    };
    /** Updates to a description, and looks that this is what the preview said. */
    const update = async (account: Account, description: Description) => {
        const { reasons, done } = await plan(account, description);
        const before = trainings();
        const { code, answer, actions } = await rig.json("up");
        expect({ code, actions }).toEqual({ code: 0, actions: done });
        const inTheEnd = Object.entries(reasons).map(([name, fields]) => [
            name,
            fields.map((field) => field.replace(", not known yet", "")),
        ]);
        expect(reasonsOf(answer)).toEqual(Object.fromEntries(inTheEnd));
        const known = account.trained.has(ofTheModel(description));
        expect(trainings()).toHaveLength(before.length + (known ? 0 : 1));
        account.took(description, answer);
    };

    test("the preview is what up does, with the fields that differ; only what can alter the model trains it", async () => {
        const after = (one: Description, changes: readonly Edit[]) =>
            changes.reduce<Description>((before, change) => ({ ...before, ...change }), one);
        await fc.assert(
            fc.asyncProperty(rounds, async (all) => {
                const account = await fresh();
                let now = FIRST;
                for (const { planned, updated, back } of all) {
                    now = after(now, planned);
                    await plan(account, now);
                    now = after(now, updated);
                    await update(account, now);
                    const runs = rig.runs().length;
                    await update(account, account.history[back % account.history.length] ?? FIRST);
                    expect(rig.runs()).toHaveLength(runs);
                }
                await expectSettled();
            }),
            { ...RUNS, numRuns: 1 },
        );
    });

    const control = (file: string) => path.join(rig.control, file);
    const training = () => eventually("the training runs", () => rig.active("Training"));
    /** What goes wrong while a training is going on. Each answers how often the training has been started then. */
    const mishaps = {
        "a program fails": async () => {
            fs.writeFileSync(control("fail-Training"), "loss became nan at step 3");
            const { code, stage } = await rig.json("up");
            expect({ code, action: stage("training").action }).toEqual({ code: 1, action: "failed" });
            expect(stage("training").error).toContain("loss became nan at step 3");
            fs.rmSync(control("fail-Training"));
            return 2;
        },
        "the evaluation fails": async () => {
            fs.writeFileSync(control("fail-Answers"), "no answer");
            const { code, stage } = await rig.json("up");
            expect({ code, action: stage("evaluation").action }).toEqual({ code: 1, action: "failed" });
            fs.rmSync(control("fail-Answers"));
            return 1;
        },
        "it is stopped": async () => {
            fs.writeFileSync(control("hold-Training"), "");
            const client = rig.spawn("up", ["--json"]);
            const { key } = await training();
            expect(await rig.run("stop", key)).toMatchObject({ code: 0 });
            fs.rmSync(control("hold-Training"));
            expect(await client.ended).toMatchObject({ code: 1 });
            return 2;
        },
        "the client is killed": async () => {
            fs.writeFileSync(control("hold-Training"), "");
            const client = rig.spawn("up", ["--json"]);
            await training();
            const cli = await client.cli();
            client.child.kill("SIGKILL");
            await eventually("the CLI ends", () => !isAlive(cli));
            fs.rmSync(control("hold-Training"));
            return 1;
        },
        "the Pulumi CLI is killed": async () => {
            fs.writeFileSync(control("hold-Training"), "");
            const client = rig.spawn("up", ["--json"]);
            await training();
            killNow(await client.cli());
            expect(await client.ended).toMatchObject({ code: 1 });
            fs.rmSync(control("hold-Training"));
            return 1;
        },
        "its supervisor is killed": async () => {
            fs.writeFileSync(control("hold-Training"), "");
            const client = rig.spawn("up", ["--json"]);
            killNow((await training()).pid);
            expect(await client.ended).toMatchObject({ code: 1 });
            fs.rmSync(control("hold-Training"));
            return 2;
        },
        "its artifact is deleted": async () => {
            const { code, stage } = await rig.json("up");
            expect(code).toBe(0);
            fs.rmSync(path.join(rig.home, "store", stage("training").digest ?? "?"), { recursive: true });
            expect((await rig.json("refresh")).actions).toEqual(all("unchanged", { training: "drifted" }));
            return 2;
        },
    };
    const names = Object.keys(mishaps) as (keyof typeof mishaps)[];

    test("whatever happens to a training, the next up ends with the same results, and a second one does nothing", async () => {
        let seed = 100;
        await fc.assert(
            fc.asyncProperty(
                fc.shuffledSubarray(names, { minLength: 3, maxLength: 4 }),
                fc.array(edit, { minLength: 1, maxLength: 2 }),
                async (happenings, edits) => {
                    const account = await fresh();
                    for (const what of happenings) {
                        // A seed of its own makes sure that something runs.
                        seed += 1;
                        const training = { seed };
                        const description = {
                            ...FIRST,
                            ...Object.assign({}, ...edits),
                            training,
                            mirror: false,
                        } as Description;
                        write(rig, description);
                        const before = trainings();
                        const starts = await mishaps[what]();
                        const { code, answer } = await rig.json("up");
                        expect([what, code]).toEqual([what, 0]);
                        account.took(description, answer);
                        const { key = "" } = answer.stages.find(({ name }) => name === "training") ?? {};
                        expect([what, trainings()]).toEqual([what, [...before, { key, attempt: starts }]]);
                        await expectSettled();
                        expect(rig.locks()).toEqual([]);
                    }
                    write(rig, FIRST);
                    const { code, answer } = await rig.json("up");
                    expect(code).toBe(0);
                    account.took(FIRST, answer);
                    expect(trainings()).toHaveLength(1 + happenings.length);
                },
            ),
            { ...RUNS, numRuns: 2 },
        );
    });
});
