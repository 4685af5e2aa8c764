// The history of a stack: what an update leaves in it, its index, and `npm run report` on it.
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { gather } from "../../pipeline/report/gather";
import { generationsOf, keepGeneration } from "../../pipeline/report/history";
import { renderMarkdown } from "../../pipeline/report/markdown";
import { renderReport } from "../../pipeline/report/render";
import { Store, type Metrics } from "../../pipeline/store/store";
import { keepReport } from "../../scripts/generation";
import { project } from "../../scripts/locations.cjs";
import type { StageOutcome } from "../../scripts/outcome";
import { Browser, chromium } from "./chromium";
import { data, evaluation, hostile, refused, served } from "./report-data";

const homes: string[] = [];

function newHome(): string {
    const home = fs.mkdtempSync(path.join(os.tmpdir(), "retune-history-"));
    homes.push(home);
    return home;
}

afterAll(() => {
    for (const home of homes) fs.rmSync(home, { recursive: true });
});

function run(home: string, ...args: string[]) {
    const command = [path.join(project, "scripts", "report.cjs"), ...args];
    const { status, stdout, stderr } = spawnSync(process.execPath, command, {
        env: { ...process.env, RETUNE_HOME: home },
        encoding: "utf8",
    });
    return { status, stdout, stderr };
}

test.skipIf(chromium === undefined)(
    "an index with every decision, long names and numbers fits a phone",
    { timeout: 60_000 },
    async () => {
        const home = newHome();
        const reasons = ['gate.conditions [] → [{"metric":"evalLoss","against":0.001}]', "x".repeat(300)];
        for (const decision of ["accepted", "refused", "ungated", "overridden"] as const) {
            const metrics = { ...data.tuned.metrics, evalLoss: 11.9317, rougeL: 100, bleu4: 100 };
            const stages = data.stages.map((one) => ({ ...one, reasons }));
            const verdict = { ...data.verdict, decision };
            const one = { ...data, verdict, stages, tuned: { ...data.tuned, metrics } };
            await keepGeneration(home, one, "");
        }
        const browser = new Browser(chromium ?? "");
        try {
            const index = path.join(home, "history", "dev", "index.html");
            for (const width of [320, 390]) {
                const opened = await browser.open(index, { width, scheme: "dark" });
                expect(opened).toEqual({ complaints: [], requests: [], findings: [], overflow: 0 });
            }
            const cells = await browser.evaluate<number[]>(
                "[...document.querySelectorAll('tbody time, tbody .badge')].map((one) => one.getClientRects().length)",
            );
            expect(cells).toEqual(Array(8).fill(1));
        } finally {
            await browser.close();
        }
    },
);

test("other data is what changed; that the stages after it took it in is not said again", async () => {
    const home = newHome();
    const reasons = ["content.files e5e0af13eb02 → 334029df90e5", "dataset 92992e05474c → 06706e32634d"];
    await keepGeneration(home, { ...data, stages: data.stages.slice(0, 1).map((one) => ({ ...one, reasons })) }, "");
    expect(generationsOf(home, "dev")[0]?.changes).toEqual([reasons[0]]);
});

describe("three generations, one of them refused", () => {
    const home = newHome();

    test("each has a page, and the index tells of all", async () => {
        const better = { ...data, verdict: { ...data.verdict, decision: "accepted" as const } };
        for (const one of [data, refused, better]) await keepGeneration(home, one, await renderReport(one));
        expect(generationsOf(home, "dev").map(({ number, decision }) => ({ number, decision }))).toEqual([
            { number: 1, decision: "ungated" },
            { number: 2, decision: "refused" },
            { number: 3, decision: "accepted" },
        ]);
        expect(generationsOf(home, "dev")[0]?.changes).toEqual([
            "learningRate 0.0005 → 0.0001",
            "trained 0123 → 4567",
            "maxNewTokens 64 → 128",
        ]);
        expect(fs.readdirSync(path.join(home, "history", "dev")).sort()).toEqual(["1", "2", "3", "index.html"]);
        const index = fs.readFileSync(path.join(home, "history", "dev", "index.html"), "utf8");
        const text = index.replace(/<style>[\s\S]*?<\/style>|<[^>]+>/g, " ").replace(/\s+/g, " ");
        expect(text).toContain("3 2026-07-30 14:05 UTC accepted 0.59 41.4 27.9 learningRate 0.0005 → 0.0001;");
        expect(index).toContain(`data-name="Held-out loss">0.59</td>`);
        expect(text.indexOf("3 2026")).toBeLessThan(text.indexOf("2 2026-07-30 14:05 UTC refused"));
        for (const [, link = ""] of index.matchAll(/href="(\d[^"]*)"/g)) {
            const page = path.join(home, "history", "dev", link);
            const [, back = ""] = /href="(\.\.[^"]*)"/.exec(fs.readFileSync(page, "utf8")) ?? [];
            expect(path.resolve(path.dirname(page), back)).toBe(path.join(home, "history", "dev", "index.html"));
        }
    });

    test.skipIf(chromium === undefined)(
        "the index opens in a browser without a finding",
        { timeout: 60_000 },
        async () => {
            const browser = new Browser(chromium ?? "");
            try {
                const index = path.join(home, "history", "dev", "index.html");
                for (const look of [
                    { width: 390, scheme: "dark" } as const,
                    { width: 1280, scheme: "light" } as const,
                ]) {
                    expect(await browser.open(index, look)).toEqual({
                        ...{ complaints: [], requests: [], findings: [], overflow: 0 },
                    });
                }
            } finally {
                await browser.close();
            }
        },
    );

    test("`npm run report` says where they are, and what they say", () => {
        const place = `file://${home}/history/dev`;
        expect(run(home)).toEqual({
            status: 0,
            stdout: `report       ${place}/3/report.html\ngenerations  ${place}/index.html\n`,
            stderr: "",
        });
        expect(run(home, "--generation", "2").stdout).toContain(`${place}/2/report.html`);
        expect(JSON.parse(run(home, "--json", "--generation", "1").stdout)).toEqual(data);
        expect(run(home, "--markdown", "--generation", "2").stdout).toBe(`${renderMarkdown(refused)}\n`);
    });

    test("one that is not there, or not any more, gets a clear error", () => {
        const failed = (stderr: string) => ({ status: 1, stdout: "", stderr: `${stderr}\n` });
        expect(run(home, "--stack", "prod")).toEqual(
            failed(`there is no report of stack prod in ${home}: \`npm run up -- --stack prod\``),
        );
        expect(run(home, "--generation", "9")).toEqual(
            failed("there is no generation 9 of stack dev, there is 1 to 3"),
        );
        const file = path.join(home, "history", "dev", "3", "report.json");
        fs.writeFileSync(file, JSON.stringify({ ...data, version: 1 }));
        expect(run(home, "--markdown")).toEqual(
            failed(
                `the report of generation 3 of stack dev was made by another version of Retune: its page is there, ${path.join(path.dirname(file), "report.html")}, but no Markdown of it`,
            ),
        );
        fs.writeFileSync(file, '{"version": 3, "sta');
        expect(run(home, "--json")).toEqual(
            failed(`the report of generation 3 of stack dev is torn: ${file} is no JSON`),
        );
        fs.rmSync(file);
        expect(run(home, "--markdown")).toEqual(
            failed(`the report of generation 3 of stack dev is gone: there is no ${file}`),
        );
    });
});

test("a generation that was lost or torn keeps nobody from the others, and its number is not given again", async () => {
    const home = newHome();
    const folder = path.join(home, "history", "dev");
    for (let count = 0; count < 3; count++) await keepGeneration(home, data, "page");
    fs.rmSync(path.join(folder, "2", "generation.json"));
    const [first = "", third = ""] = ["1", "3"].map((number) => path.join(folder, number, "generation.json"));
    fs.writeFileSync(third, fs.readFileSync(third, "utf8").slice(0, 20));
    expect(run(home)).toEqual({
        ...{ status: 0, stderr: "" },
        stdout: `report       file://${folder}/1/report.html\ngenerations  file://${folder}/index.html\n`,
    });
    expect(await keepGeneration(home, data, "page")).toBe(path.join(folder, "4", "report.html"));
    expect(generationsOf(home, "dev").map(({ number }) => number)).toEqual([1, 4]);
    fs.rmSync(first);
    expect(run(home, "--generation", "1").stderr).toBe("there is no generation 1 of stack dev, there is only 4\n");
});

describe("Markdown", () => {
    test("has the verdict, the conditions, the metrics and the changes", () => {
        const text = renderMarkdown(refused);
        expect(text.split("\n").filter((line) => line !== "")).toEqual([
            "## ❌ dev: Refused",
            expect.stringContaining("A condition of the gate does not hold"),
            "- ✅ evalLoss 0.5904 against 3.7612 of the base model: better by 3.1708",
            "- ❌ evalLoss 0.5904 against 0.4800 of the incumbent: worse by 0.1104, where 0 is allowed",
            '- ❌ the answer to "感冒了应该怎么办？" does not say "医生"',
            "> 20 held-out rows are fewer than 30: the verdict may be chance",
            "| Measure | Base | Incumbent | Tuned | Against base | Against incumbent |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
            "| Held-out loss | 3.76 | 0.48 | 0.59 | −3.17 [−0.50, +30.00] | +0.11 [+0.10, +0.12] |",
            "| BLEU-4 | 2.0 | 2.0 | 27.9 | +25.9 [−0.5, +30.0] | +25.9 [+0.1, +0.1] |",
            "| ROUGE-1 | 18.0 | 18.0 | 48.0 | +30.0 [−0.5, +30.0] | +30.0 [+0.1, +0.1] |",
            "| ROUGE-2 | 3.0 | 3.0 | 22.0 | +19.0 [−0.5, +30.0] | +19.0 [+0.1, +0.1] |",
            "| ROUGE-L | 13.2 | 45.0 | 41.4 | +28.2 [−0.5, +30.0] | −3.6 [+0.1, +0.1] |",
            "- training: learningRate 0.0005 → 0.0001",
            "- evaluation: trained 0123 → 4567",
            "- evaluation: maxNewTokens 64 → 128",
            "_This is a demonstration, not medical advice._",
        ]);
    });

    test("names what the update has cost, and the way to a service", () => {
        expect(renderMarkdown({ ...served, cost: 1.234 })).toContain(
            "\n\n- Cost: 1.23 (of this update, at the target's price)\n" +
                "- The API's address and key: `npm run api -- --stack dev`\n\n",
        );
        expect(renderMarkdown({ ...served, language: "zh" })).toContain(
            "- API 的地址和密钥：`npm run api -- --stack dev`\n",
        );
    });

    test("data stays text in it", () => {
        const text = renderMarkdown({ ...hostile, notice: "@everyone [a](http://a.example) | *b*" });
        expect(text).not.toMatch(/(?<!\\)[<[*]/);
        expect(text).not.toContain("@everyone");
    });

    test("no address in it becomes a link, and a command can be copied", () => {
        const text = renderMarkdown({
            ...served,
            stack: "my_stack",
            notice: "see https://a.example and WWW.b.example",
        });
        expect(text).toContain("_see https:\u200b//a.example and WWW\u200b.b.example_");
        expect(text).toContain("## ✅ my\\_stack: ");
        expect(text).toContain("`npm run api -- --stack my_stack`");
    });
});

describe("what an update leaves in the history", () => {
    const digests = new Map<string, string>();

    /** A store with the results of five stages, as the stages leave them. */
    async function storeIn(home: string): Promise<Store> {
        const store = new Store(home);
        const make = async (
            kind: string,
            parameters: object,
            files: Readonly<Record<string, string>>,
            metrics: Metrics,
        ): Promise<void> => {
            const key = keyOf(kind);
            const one = { key, kind, stage: kind.toLowerCase(), parameters: parameters as never };
            const { digest } = await store.make(one, (folder) => {
                for (const [name, text] of Object.entries(files)) fs.writeFileSync(path.join(folder, name), text);
                return Promise.resolve(metrics);
            });
            digests.set(kind, digest);
        };
        const rows = [1, 2, 3, 4].map((row) =>
            JSON.stringify({ instruction: "", input: `q${row}`, output: `a${row}` }),
        );
        const { scanned, kept, dropped, characters } = data.dataset;
        const converted = { scanned, kept, dropped, characters, rows: data.dataset.rows };
        await make("Dataset", {}, { "train.jsonl": rows.join("\n") }, converted);
        await make("Model", {}, { "model.safetensors": "m" }, {});
        const lengths = { longestRow: 301, rowsLookedAt: 4, rowsCutOff: 0.25 };
        await make("Training", { method: "lora", cutoffLength: 256 }, { "adapter.safetensors": "a" }, lengths);
        const asked = { trained: digests.get("Training"), template: "qwen3", instruction: "Answer." };
        const losses = (loss: number) =>
            Array.from({ length: 12 }, (_, index) => ({ question: `q${index}`, loss: loss + index / 10, tokens: 10 }));
        const judged = {
            base: { ...evaluation("base", {}), losses: losses(3) },
            tuned: { ...evaluation("tuned", { evalLoss: 0.59 }), losses: losses(0.5) },
            verdict: refused.verdict,
        };
        await make("Evaluation", asked, { "evaluation.json": JSON.stringify(judged) }, {});
        const parity = { files: 3, bytes: 1000, parity: { checked: 2, equal: 2 } };
        await make("Export", {}, { "retune.json": JSON.stringify({ base: "b" }) }, parity);
        return store;
    }

    const keyOf = (kind: string): string => Buffer.from(kind.padEnd(32)).toString("hex");
    const report = { stack: "dev", notice: "", language: "en", hasModel: true } as const;
    const outcome = (kind: string, action: StageOutcome["action"], rest: Partial<StageOutcome> = {}): StageOutcome => ({
        ...{ name: kind.toLowerCase(), type: `finetune:pipeline:${kind}`, action, reasons: [] },
        ...(action === "skipped" ? {} : { key: keyOf(kind), digest: digests.get(kind) ?? "" }),
        ...rest,
    });

    test("one that was refused: its page is made of the evaluation that was refused", async () => {
        const home = newHome();
        await storeIn(home);
        const reasons = [{ field: "learningRate", old: 0.1, new: 0.2 }];
        const stages = [
            outcome("Dataset", "unchanged"),
            outcome("Model", "unchanged"),
            outcome("Training", "ran", { seconds: 60, cost: 0.5, reasons }),
            outcome("Evaluation", "refused"),
            outcome("Export", "skipped"),
            outcome("Report", "skipped"),
        ];
        const page = await keepReport(home, stages, report);
        expect(page).toBe(path.join(home, "history", "dev", "1", "report.html"));
        const json = fs.readFileSync(path.join(home, "history", "dev", "1", "report.json"), "utf8");
        const kept = JSON.parse(json) as typeof data;
        expect(kept.stages.map(({ name, action }) => `${name} ${action}`)).toEqual([
            "dataset unchanged",
            "model unchanged",
            "training ran",
            "evaluation refused",
            "export skipped",
        ]);
        expect(kept.stages[2]).toMatchObject({ seconds: 60, cost: 0.5, reasons: ["learningRate 0.1 → 0.2"] });
        expect(kept).not.toHaveProperty("exported");
        expect(kept).not.toHaveProperty("hasModel");
        expect(kept.dataset.tokens).toEqual({ cutoff: 256, longest: 301, lookedAt: 4, shareCutOff: 0.25 });
        expect(kept.dataset.examples.map(({ input }) => input)).toEqual(["q1", "q2", "q3"]);
        // The same again is refused again: that is no other generation.
        expect(await keepReport(home, stages, report)).toBe(page);
        expect(generationsOf(home, "dev")).toHaveLength(1);
        // Of rows that all differ by the same, every resample says the same.
        expect(kept.differences[0]).toMatchObject({ metric: "evalLoss", against: "base", tuned: 0.59, other: 3.7612 });
        expect(kept.differences[0]?.interval?.low).toBeCloseTo(-2.5);
        expect(kept.differences[0]?.interval?.high).toBeCloseTo(-2.5);
    });

    test("a first one that was refused: the stack has no model", async () => {
        const home = newHome();
        await storeIn(home);
        const stages = [
            ...["Dataset", "Model", "Training"].map((kind) => outcome(kind, "ran")),
            outcome("Evaluation", "refused"),
            ...["Export", "Report"].map((kind) => outcome(kind, "skipped")),
        ];
        const page = await keepReport(home, stages, { ...report, hasModel: false });
        const html = fs.readFileSync(page ?? "", "utf8");
        expect(html).toContain("npm run chat -- --stack dev --compare base");
    });

    test("one that switched the service off: the page has no address any more", async () => {
        const home = newHome();
        await storeIn(home);
        // The report without a service is there already: that of the first update.
        const stages = [
            ...["Dataset", "Model", "Training", "Evaluation", "Export"].map((kind) => outcome(kind, "unchanged")),
            outcome("Report", "cached"),
            outcome("Service", "deleted", { uri: "http://127.0.0.1:8000/v1" }),
        ];
        const page = await keepReport(home, stages, report);
        const json = fs.readFileSync(path.join(path.dirname(page ?? ""), "report.json"), "utf8");
        const kept = JSON.parse(json) as typeof data;
        expect(kept).not.toHaveProperty("service");
        expect(kept.stages.map(({ name }) => name)).not.toContain("service");
        expect(fs.readFileSync(page ?? "", "utf8")).not.toContain("npm run api");
    });

    test("one that went back to an earlier model: what it did, not what the earlier update did", async () => {
        const home = newHome();
        await storeIn(home);
        const all = ["Dataset", "Model", "Training", "Evaluation", "Export", "Report"];
        expect(
            await keepReport(
                home,
                all.map((kind) => outcome(kind, "unchanged")),
                report,
            ),
        ).toBeUndefined();
        await keepGeneration(home, { ...data, language: "zh" }, "");
        await keepReport(
            home,
            all.map((kind) => outcome(kind, "cached")),
            { stack: "dev", notice: "", hasModel: true },
        );
        const json = fs.readFileSync(path.join(home, "history", "dev", "2", "report.json"), "utf8");
        const kept = JSON.parse(json) as typeof data;
        expect(kept.language).toBe("zh"); // nothing else is configured: as the one before
        expect(new Set(kept.stages.map(({ action }) => action))).toEqual(new Set(["cached"]));
        expect(kept.exported).toMatchObject({ files: 3, template: "qwen3", instruction: "Answer." });
        expect(generationsOf(home, "dev")).toHaveLength(2);
    });

    test("one whose service did not come up: the model is there, and what kept it from serving is said", async () => {
        const home = newHome();
        await storeIn(home);
        const stages = (training: StageOutcome["action"]) => [
            ...["Dataset", "Model"].map((kind) => outcome(kind, "unchanged")),
            outcome("Training", training, { seconds: 60, cost: 0.5 }),
            outcome("Evaluation", "ran", { cost: 0.25 }),
            outcome("Export", "ran"),
            outcome("Service", "failed", { error: "the model did not come up: port 8000 is taken\n  the whole log" }),
            outcome("Report", "skipped"),
        ];
        const page = await keepReport(home, stages("ran"), report);
        const kept = JSON.parse(
            fs.readFileSync(path.join(path.dirname(page ?? ""), "report.json"), "utf8"),
        ) as typeof data;
        expect(kept.stages.at(-1)).toEqual({
            ...{ name: "service", kind: "Service", after: ["export"], action: "failed", seconds: 0 },
            reasons: ["the model did not come up: port 8000 is taken"],
        });
        expect(kept).toMatchObject({ cost: 0.75, exported: { files: 3 } });
        expect(kept).not.toHaveProperty("service");
        // Where the model before goes on serving, it has an address.
        const uri = "http://127.0.0.1:8000/v1";
        const serving = stages("ran").map((one) => (one.name === "service" ? { ...one, uri } : one));
        const other = await keepReport(home, serving, report);
        const json = fs.readFileSync(path.join(path.dirname(other ?? ""), "report.json"), "utf8");
        expect((JSON.parse(json) as typeof data).service).toEqual({ address: uri });
        // That it still does not is nothing new.
        const again = stages("unchanged").map((one) =>
            one.action === "ran" ? { ...one, action: "unchanged" as const } : one,
        );
        expect(await keepReport(home, again, report)).toBeUndefined();
    });

    test("one that went back with a service: its address is on the page", async () => {
        const home = newHome();
        await storeIn(home);
        const stages = [
            ...["Dataset", "Model", "Training", "Evaluation", "Export", "Report"].map((kind) =>
                outcome(kind, "cached"),
            ),
            outcome("Service", "ran", {
                seconds: 9,
                uri: "http://127.0.0.1:8000/v1",
                reasons: [{ field: "model", old: "a", new: "b" }],
            }),
        ];
        const page = await keepReport(home, stages, report);
        const json = fs.readFileSync(path.join(path.dirname(page ?? ""), "report.json"), "utf8");
        const kept = JSON.parse(json) as typeof data;
        expect(kept.service).toEqual({ address: "http://127.0.0.1:8000/v1" });
        expect(kept.stages.at(-1)).toMatchObject({
            name: "service",
            action: "ran",
            seconds: 9,
            reasons: ["model a → b"],
        });
    });

    test("a run that is gone, and an artifact that was altered, are named", async () => {
        const home = newHome();
        const store = await storeIn(home);
        const keys = {
            ...{ dataset: keyOf("Dataset"), model: keyOf("Model"), training: keyOf("Training") },
            evaluation: keyOf("Evaluation"),
        };
        const subject = { ...report, keys, session: new Map() };
        fs.appendFileSync(path.join(store.artifactFolder(digests.get("Evaluation") ?? ""), "evaluation.json"), " ");
        await expect(gather(store, subject)).rejects.toThrow(
            `the artifact of evaluation (${digests.get("Evaluation")?.slice(0, 12) ?? ""}) is not as it was made, ` +
                "evaluation.json was altered: `npm run refresh`, then `npm run up` bring it back",
        );
        fs.rmSync(store.runFolder(keyOf("Training")), { recursive: true });
        await expect(gather(store, subject)).rejects.toThrow(
            "the run of training is gone from the store: `npm run refresh`, then `npm run up` repair it",
        );
    });
});
