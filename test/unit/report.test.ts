// The page that an update ends in: what it says, that data stays text in it, and that it needs nothing but itself.
import { describe, expect, test } from "vitest";
import * as fs from "node:fs";
import * as path from "node:path";
import { z } from "zod";
import { reportSchema, type ModelEvaluation, type ReportData, type ReportStage } from "../../pipeline/report/data";
import { bytes, difference, learningRate, loss } from "../../pipeline/report/format";
import { html } from "../../pipeline/report/html";
import { renderMarkdown } from "../../pipeline/report/markdown";
import { renderReport } from "../../pipeline/report/render";
import { clipped } from "../../pipeline/report/text";
import { huatuoLite } from "../../datasets/huatuo-lite";
import { wordsOf } from "../../pipeline/report/words";
import { project } from "../../scripts/locations.cjs";
import { data, differences, evaluation, hostile, nothingHeldOut, refused, served, service, steps } from "./report-data";

/** What a reader sees, more or less: the page without tags, with one space between words. */
async function textOf(changed: Partial<ReportData> = {}): Promise<string> {
    const { base = data.base, tuned = data.tuned } = changed;
    return textIn(await renderReport({ ...data, differences: differences("base", base, tuned), ...changed }));
}

function textIn(page: string): string {
    return page
        .replace(/<style>[\s\S]*?<\/style>/g, "")
        .replace(/<[^>]+>/g, " ")
        .replace(/&#39;/g, "'")
        .replace(/&quot;/g, '"')
        .replace(/&amp;/g, "&")
        .replace(/\s+/g, " ");
}

/** The names of the attributes through which a page could load or run something, and their values. */
function references(page: string): string[] {
    const tags = page.match(/<[a-z][^>]*>/g) ?? [];
    return tags.flatMap((tag) =>
        [...tag.matchAll(/\s(src|srcset|href|xlink:href|action|data|poster|on\w+)="([^"]*)"/g)].map(
            ([, name, value]) => `${name ?? ""}=${value ?? ""}`,
        ),
    );
}

describe("what the page says", () => {
    test("the stack, the time and the notice are at its top, the verdict follows", async () => {
        const text = await textOf();
        const places = [
            "Retune report, 2026-07-30 14:05 UTC dev All generations of this stack (a page on the machine that made this one)",
            "This is a demonstration, not medical advice.",
            "Better than the base model: held-out loss 3.76 → 0.59, ROUGE-L 13.2 → 41.4.",
            "base: 多喝水",
        ].map((part) => text.indexOf(part));
        expect(places).not.toContain(-1);
        expect(places).toEqual([...places].sort((a, b) => a - b));
    });

    test.each([
        [{ evalLoss: 4, rougeL: 10 }, "Worse than the base model: held-out loss 3.76 → 4.00, ROUGE-L 13.2 → 10.0."],
        [
            { evalLoss: 3, rougeL: 10 },
            "Better than the base model in one measure, worse in another: held-out loss 3.76 → 3.00,",
        ],
        // As good as the same: nobody sees the difference, so none is claimed.
        [{ evalLoss: 3.7599, rougeL: 13.21 }, "The same as the base model: held-out loss 3.76 → 3.76,"],
        [{ evalLoss: 3, rougeL: null }, "Better than the base model: held-out loss 3.76 → 3.00."],
    ])("the verdict of %o", async (metrics, expected) => {
        expect(await textOf({ tuned: evaluation("tuned", metrics) })).toContain(expected);
    });

    test("answers stand side by side, with a word on those that were cut off", async () => {
        const text = await textOf();
        expect(text).toContain(
            "感冒了应该怎么办？ Base model base: 多喝水 Cut off: the limit of new tokens was reached.",
        );
        expect(text).toContain("Tuned model tuned: 多喝水 Metrics");
    });

    test("stages say what happened and how long it took", async () => {
        const text = await textOf();
        expect(text).toContain(
            "dataset unchanged Took 1 s, in an earlier run; nothing that it depends on has changed.",
        );
        expect(text).toContain(
            "base Model cached Took 34 s, in an earlier run whose result was taken over. Why: it is new in this stack.",
        );
        expect(text).toContain(
            "training ran Took 3 min 4 s, in this update; 2 min 30 s were expected. Why: learningRate 0.0005 → 0.0001 " +
                "run training-0123 , digest c0ffeec0ffee , finished 2026-07-30 14:05 UTC on 16 CPUs (x86_64), NVIDIA A10, ubuntu 22.04, driver 570.158.01, torch 2.8.0, CUDA 12.8, LLaMA-Factory 0.9.5 evaluation",
        );
        expect(text).toContain(
            "evaluation attached Took 1 min 11 s, in a run that was already going on. " +
                "Why: trained 0123 → 4567 maxNewTokens 64 → 128 run evaluation-0123 , " +
                "digest c0ffeec0ffee , finished 2026-07-30 14:05 UTC on 1 CPU (aarch64)",
        );
        expect(text).toContain("This update 4 min 15 s work in 2 of 4 stages");
    });

    test("metrics have a difference and a direction", async () => {
        const text = await textOf();
        expect(text).toContain("Held-out loss 3.76 0.59 −3.17 better");
        expect(text).toContain("BLEU-4 2.0 27.9 +25.9 better");
        expect(text).toContain("The loss is over 50 held-out rows, the scores are over 3 answers. With so few,");
    });

    test.each([
        [{ steps: 0, seconds: 0 }, ""],
        [
            { steps: 0, seconds: 0, resumedFrom: 1200 },
            "The training was interrupted; no step was lost. It went on from the checkpoint at step 1,200.",
        ],
        [
            { steps: 37, seconds: 41, resumedFrom: 1200 },
            "The training was interrupted: 37 steps (41 s) after the last checkpoint were lost and done again. It went on from the checkpoint at step 1,200.",
        ],
        [
            { steps: 37, seconds: 41, resumedFrom: 0 },
            "The training was interrupted: 37 steps (41 s) after the last checkpoint were lost and done again.",
        ],
    ])("says where an interrupted training went on, and what was lost: %j", async (lost, said) => {
        const text = await textOf({ lost });
        const [, found = ""] =
            /(The training was interrupted.*?\.(?: It went on from .*?\.)?)(?= [A-Z]|$)/.exec(text) ?? [];
        expect(found).toBe(said);
    });

    test("held-out cases come worst first", async () => {
        const page = await renderReport(data);
        const cases = [...page.matchAll(/<span class="score">([\d.]+)<\/span>/g)].map(([, score]) => score);
        expect(cases).toEqual(["15.0", "35.0", "60.0"]);
        const text = await textOf();
        expect(text).toContain("Show all 3 worse 1 better 1 cut off 0 empty 0 15.0 −5.0 newborn skin looks yellow");
        expect(text).toContain("Reference reference of 飞蚊症 Base model ROUGE-L 35.0, BLEU-4 1.5");
    });

    test("the data set's rows are accounted for", async () => {
        const text = await textOf();
        expect(text).toContain(
            "Found in the rows Rows that ask nearly what an earlier row asks: 1 row 1 (train) and row 9 (train), 84 % alike: " +
                '"&lt;Why&gt;?" and "Why?" Rows that hold what looks like a Chinese mobile number: 2 row 7: "138******78" row 8: "199******00"',
        );
        expect(text).toContain("Read 6,230 100.0 % Dropped: score below 4 929 14.9 % Dropped: duplicate question 301");
        expect(text).toContain("Kept 5,000 80.3 %");
        expect(text).toContain("Training 4,250 Validation 500 Test (held out) 250");
        expect(text).not.toContain("never");
    });

    test("settings and provenance", async () => {
        const text = await textOf();
        expect(text).toContain("loraRank 8 llamafactory.lora_dropout 0.1");
        expect(text).toContain('"tools": { "torch": "2.9.1" }');
    });

    test("the exported model, with lines to paste into Python and a shell", async () => {
        const text = await textOf();
        expect(text).toContain(
            "11 files, 1.19 GB. The merged model answers all 2 prompts exactly like base + adapter.",
        );
        expect(text).toContain(`folder = "/data/it's here/model"`);
        expect(text).toContain(String.raw`"content": "你是一名医生。\n感冒了应该怎么办？"`);
        expect(text).toContain("enable_thinking=False");
        expect(text).toContain(String.raw`cd '/data/it'\''s here/model' && sha256sum -c SHA256SUMS`);
    });

    test.each([
        [
            { checked: 0, tensors: 1200 },
            "There was no adapter to merge, so its answers were not compared. Its 1,200 tensors are those that the training makes.",
        ],
        [{ checked: 1, equal: 1 }, "The merged model answers the 1 prompt exactly like base + adapter."],
        [
            { checked: 3, equal: 2, logits: 0.003125 },
            "2 of 3 prompts exactly like base + adapter (in half precision, rounding alone can change a token). " +
                "Their logits differ by at most 0.31 % of the largest one.",
        ],
    ])("parity %o", async (parity, expected) => {
        expect(await textOf({ exported: data.exported && { ...data.exported, parity } })).toContain(expected);
    });

    test("code keeps its lines", async () => {
        const page = await renderReport(data);
        expect(page).toContain("<pre><code>from transformers import AutoModelForCausalLM, AutoTokenizer\n\nfolder = ");
        expect(page).toContain("    add_generation_prompt=True,\n    return_dict=True,\n");
    });
});

describe("data stays text", () => {
    test("markup from data is escaped everywhere", async () => {
        const page = await renderReport(hostile);
        expect(page).not.toContain("<script");
        expect(page).not.toContain("<img");
        expect(page).toContain("<title>&lt;script&gt;alert(1)&lt;/script&gt;&lt;img src=http://a.example/b");
        expect(page).toContain("&#39;&amp;amp;");
    });

    test("its direction and language come from itself", async () => {
        const page = await renderReport(hostile);
        expect(page).toContain(`<p class="quoted" dir="auto" lang="ar">مرحبا بالعالم</p>`);
        expect(await renderReport(data)).toContain('<bdi lang="zh">感冒了应该怎么办？</bdi>');
    });

    test("texts of 10,000 characters are whole, longer ones end with a word on it", async () => {
        expect(await renderReport(hostile)).toContain("x".repeat(10_000));
        const endless = [{ prompt: "?", answer: "y".repeat(13_000), complete: true }];
        const page = await renderReport({ ...data, tuned: { ...data.tuned, prompts: endless } });
        expect(page).toContain("… and 1,000 more characters.");
        expect(page).not.toContain("y".repeat(12_001));
    });

    test("a character is never cut in half", () => {
        expect(clipped("a👍b", 2)).toBe("a");
        expect(clipped("a👍b", 3)).toBe("a👍");
    });

    test("the template escapes text, and leaves out what is undefined", () => {
        expect(html`<b title="${'"'}">${"<i>"}${undefined}${[html`<i>${1}</i>`, "&"]}</b>`.text).toBe(
            '<b title="&quot;">&lt;i&gt;<i>1</i>&amp;</b>',
        );
    });
});

describe("one file, and nothing else", () => {
    test("it refers to nothing outside, runs nothing, and forbids both", async () => {
        const page = await renderReport(data);
        expect(references(page).filter((one) => !one.startsWith("href=#"))).toEqual([
            "href=data:,",
            "href=../../../history/dev/index.html", // for a reader, on the machine that made it
        ]);
        expect(page).not.toMatch(/https?:|url\(|@import|<script|<iframe|<object|<embed|<link rel="stylesheet"/i);
        expect(page).toContain(
            `content="default-src &#39;none&#39;; style-src &#39;unsafe-inline&#39;; img-src data:;`,
        );
    });

    test("every link of the page leads to a place in it, and ids are unique", async () => {
        const page = await renderReport(data);
        const ids = [...page.matchAll(/ id="([^"]*)"/g)].map(([, id]) => id);
        expect(new Set(ids).size).toBe(ids.length);
        for (const [, id] of page.matchAll(/href="#([^"]*)"/g)) expect(ids).toContain(id);
    });

    test("headings go down one level at a time", async () => {
        const page = await renderReport(data);
        const levels = [...page.matchAll(/<h(\d)/g)].map(([, level]) => Number(level));
        expect(levels.filter((level) => level === 1)).toHaveLength(1);
        expect(levels.every((level, index) => level <= (levels[index - 1] ?? 0) + 1)).toBe(true);
    });

    test("the same data is the same page", async () => {
        expect(await renderReport(data)).toBe(await renderReport(data));
    });

    test("it stays small, even with thousands of steps and cases", async () => {
        const many = (model: ModelEvaluation): ModelEvaluation => ({
            ...model,
            cases: Array.from({ length: 3000 }, () => ({
                question: "怀孕".repeat(20),
                reference: "胎动".repeat(50),
                answer: "请去产科".repeat(40),
                complete: true,
                bleu4: 1,
                rouge1: 1,
                rouge2: 1,
                rougeL: 1,
            })),
        });
        expect(Buffer.byteLength(await renderReport(data))).toBeLessThan(100_000);
        const changed = {
            training: { ...data.training, losses: steps(5000) },
            base: many(data.base),
            tuned: many(data.tuned),
        };
        expect(Buffer.byteLength(await renderReport({ ...data, ...changed }))).toBeLessThan(600_000);
        const text = await textOf(changed);
        // Not with toContain: its message would hold half a megabyte.
        expect(/[\d,]+ more cases left out to keep the page small/.test(text)).toBe(true);
        expect(text.slice(0, 10_000)).toContain("At 42 of 5,000 logged steps.");
    });

    test("it stays below 1 MB when everything in it is long at once", async () => {
        const long = "感冒了应该怎么办".repeat(1500);
        const wordy = (model: ModelEvaluation): ModelEvaluation => ({
            ...model,
            cases: model.cases.flatMap((one) =>
                Array.from({ length: 20 }, () => ({ ...one, reference: long, answer: long })),
            ),
            prompts: Array.from({ length: 20 }, () => ({ prompt: "感冒", answer: long, complete: true })),
        });
        const page = await renderReport({
            ...data,
            base: wordy(data.base),
            tuned: wordy(data.tuned),
            settings: Object.fromEntries(Array.from({ length: 200 }, (_, index) => [`option${index}`, long])),
            dataset: { ...data.dataset, examples: Array.from({ length: 5 }, () => ({ input: long, output: long })) },
            provenance: { long: long.repeat(5) },
        });
        expect(Buffer.byteLength(page)).toBeLessThan(1_000_000);
        expect(page.match(/<details class="case /g)?.length).toBeGreaterThan(0);
        const [, provenance = ""] = /<pre><code>(\{\n[^<]*)<\/code>/.exec(page) ?? [];
        expect(Buffer.byteLength(provenance)).toBeLessThanOrEqual(50_000);
        expect(Buffer.byteLength(provenance)).toBeGreaterThan(49_990);
    });
});

describe("charts", () => {
    test("say in words what they show, and come as numbers too", async () => {
        const page = await renderReport(data);
        expect(page).toContain(
            'aria-label="Training loss: from 3.60 at step 1 to 0.64 at step 40. ' +
                'Validation loss: from 1.25 at step 20 to 0.75 at step 40."',
        );
        expect(page).toContain('aria-label="Learning rate: from 5e-5 at step 1 to 1.25e-6 at step 40."');
        const text = await textOf();
        expect(text).toContain("The validation loss was lowest at step 40: 0.75.");
        expect(text).toContain("Step Training loss Validation loss Learning rate 1 3.60 5e-5 2 3.28");
    });

    test("take their colours from the page, so that they follow its scheme", async () => {
        const charts = (await renderReport(data)).split('class="chart"').slice(1).join("");
        const svgs = charts.match(/<svg[\s\S]*?<\/svg>/g) ?? [];
        expect(svgs).toHaveLength(4);
        for (const svg of svgs) expect(svg).not.toMatch(/#[0-9a-f]{3,6}|rgb/i);
        expect(svgs[0]).toContain('stroke="var(--tuned)"');
    });
});

describe("little or nothing to show", () => {
    test("nothing held out and no prompts", async () => {
        const text = await textOf({ base: nothingHeldOut, tuned: nothingHeldOut });
        expect(text).toContain("Not measured: nothing was held out for a test.");
        expect(text).not.toContain("Read the answers below instead.");
        expect(text).toContain("No fixed prompts are configured.");
        expect(text).toContain("There are no held-out rows, so nothing was scored.");
        expect(text).toContain("No held-out question was answered.");
        expect(text).not.toMatch(/\b(null|undefined|NaN)\b/);
    });

    test("nothing held out, but prompts", async () => {
        const none = { metrics: nothingHeldOut.metrics, cases: [] };
        const text = await textOf({ base: { ...data.base, ...none }, tuned: { ...data.tuned, ...none } });
        expect(text).toContain("nothing was held out for a test. Read the answers below instead.");
    });

    test("no validation, no learning rate, one step", async () => {
        const text = await textOf({ training: { losses: [{ step: 1, loss: 3.2 }], evalLosses: [] } });
        expect(text).toContain(
            "Training loss: 3.20 at step 1. There are no validation rows, hence no validation loss.",
        );
        expect(text).toContain("Training loss 3.20 after 1 step");
        expect(text).not.toContain("5e-5");
    });

    test("no notice, no losses, no settings, nothing done, empty answers", async () => {
        const empty = [{ prompt: "?", answer: " \n", complete: true }];
        const page = await renderReport({
            ...data,
            notice: "",
            training: { losses: [], evalLosses: [] },
            settings: {},
            stages: data.stages.map((one) => ({ ...one, action: "cached" })),
            tuned: { ...data.tuned, prompts: empty },
            base: { ...data.base, prompts: [] },
        });
        expect(page).not.toContain('class="notice"');
        expect(page).toContain("No losses were logged.");
        expect(page).toContain("No settings were given.");
        expect(page).toContain("Nothing to do");
        expect(page).toContain("(empty)");
        expect(page).toContain("(not asked)");
    });
});

test("numbers for people", () => {
    const { duration } = wordsOf("en");
    expect([3.7612, 0.0123456, 0, 12.3].map(loss)).toEqual(["3.76", "0.012", "0.00", "12.30"]);
    expect([5e-5, 0, 1.23456e-4].map(learningRate)).toEqual(["5e-5", "0", "1.23e-4"]);
    expect([0.2, 12.4, 59.7, 200, 7260].map(duration)).toEqual([
        "under 1 s",
        "12 s",
        "1 min 0 s",
        "3 min 20 s",
        "2 h 1 min",
    ]);
    expect([0, 999, 1000, 269_000_000, 999_999_999].map(bytes)).toEqual([
        "0 bytes",
        "999 bytes",
        "1.00 kB",
        "269 MB",
        "1.00 GB",
    ]);
    expect([-3.17, 0.5, 0, -0].map((value) => difference(value, loss))).toEqual(["−3.17", "+0.50", "0.00", "0.00"]);
});

describe("report.json", () => {
    const committed = path.join(project, "pipeline", "report", "report.schema.json");

    test("has the schema that is committed", () => {
        const schema = z.toJSONSchema(reportSchema, { unrepresentable: "any" });
        if (process.env["UPDATE_SCHEMA"]) fs.writeFileSync(committed, `${JSON.stringify(schema, undefined, 4)}\n`);
        expect(JSON.parse(fs.readFileSync(committed, "utf8"))).toEqual(schema);
    });

    test.each([
        ["accepted", data],
        ["served", { ...served, cost: 1.2 }],
        ["refused", refused],
        ["hostile", hostile],
    ])("of %s data is valid by it", (_, one) => {
        const schema = z.fromJSONSchema(JSON.parse(fs.readFileSync(committed, "utf8")) as z.core.JSONSchema.JSONSchema);
        const written = JSON.parse(JSON.stringify(one)) as ReportData;
        expect(schema.safeParse(written).error?.issues).toBeUndefined();
        expect(schema.safeParse({ ...written, verdict: { ...written.verdict, decision: "maybe" } }).success).toBe(
            false,
        );
        const { stack: _stack, ...without } = written;
        expect(schema.safeParse(without).success).toBe(false);
    });
});

describe("a refused model", () => {
    test("its page begins with that, and names what failed", async () => {
        const text = textIn(await renderReport(refused));
        const places = [
            "Refused A condition of the gate does not hold",
            "does not hold Held-out loss 0.59 against 0.48 of the incumbent difference between +0.10 and +0.12 (95 % sure)",
            'does not hold the answer to "感冒了应该怎么办？" does not say "医生"',
            "Worse than the incumbent: held-out loss 0.48 → 0.59",
            "Better than the base model: held-out loss 3.76 → 0.59",
            "20 held-out rows are fewer than 30: the verdict may be chance",
            "Incumbent incumbent: 多喝水",
            "export skipped Not run, because the model was refused.",
            "the adapter that was refused is here: /data/adapter",
        ].map((part) => text.indexOf(part));
        expect(places).not.toContain(-1);
        expect(places).toEqual([...places].sort((a, b) => a - b));
    });

    test("it is compared with base and incumbent, each with how sure that is", async () => {
        const text = textIn(await renderReport(refused));
        expect(text).toContain("Measure Base Incumbent Tuned Against base Against incumbent");
        expect(text).toContain(
            "Held-out loss 3.76 0.48 0.59 −3.17 may be chance [−0.50, +30.00] +0.11 worse [+0.10, +0.12]",
        );
    });

    test("the incumbent's curves are drawn beside its own", async () => {
        const page = await renderReport(refused);
        expect(page).toContain("Training loss of the incumbent: from 3.60 at step 1");
        expect(page).toContain("Validation loss of the incumbent: 0.90 at step 30.");
        expect(page).toContain('stroke="var(--incumbent)"');
    });
});

test("cost is shown where there is a price", async () => {
    const stages = data.stages.map((one) => (one.name === "training" ? { ...one, cost: 1.234 } : one));
    const text = await textOf({ stages, cost: 1.234 });
    expect(text).toContain("Took 3 min 4 s, in this update; 2 min 30 s were expected, cost 1.23.");
    expect(text).toContain("work in 2 of 4 stages, cost 1.23");
    expect(text).not.toContain("Spent so far");
    expect(await textOf({ spent: { amount: 4.5, budget: 10 } })).toContain(
        "Spent so far 4.50 dollars, for all hours of the stack's machines, of a budget of 10.00",
    );
});

describe("a service", () => {
    const stages = (action: ReportStage["action"], reasons: string[] = []) => [
        ...data.stages,
        { ...service, action, reasons, seconds: action === "ran" ? 9.4 : 0 },
    ];

    test("is in the graph, with what it did, why and how long that took", async () => {
        const page = await renderReport(served);
        expect(page).toMatch(
            /<g class="node ran">[^/]*\/>\s*<text [^>]*>service<\/text>\s*<text [^>]*>● ran<\/text>\s*<text [^>]*>9 s</,
        );
        expect(textIn(page)).toContain("service ran Serves the model, after 9 s. Why: model 0123 → 4567");
        expect(textIn(page)).toContain("This update 4 min 25 s work in 3 of 5 stages");
    });

    test.each([
        ["attached", [], "Serves the model, which was coming up already. Why: it is new in this stack."],
        ["unchanged", [], "Serves on; nothing that it depends on has changed."],
        ["failed", ["the port is taken"], "The model did not come up. Why: the port is taken"],
        ["skipped", [], "Left as it is, because the model was refused."],
    ] as const)("that %s says so", async (action, reasons, expected) => {
        const page = await renderReport({ ...served, stages: stages(action, [...reasons]) });
        expect(textIn(page)).toContain(`service ${action} ${expected}`);
        // It took no time that could be told.
        expect(page).toMatch(new RegExp(`>service</text>\\s*<text [^>]*>. ${action}</text>\\s*<text [^>]*></text>`));
    });

    test("is talked to with these commands", async () => {
        const page = await renderReport({ ...served, stack: "it's" });
        const use = page.slice(page.indexOf('<h2 id="use">'), page.indexOf('<h2 id="provenance">'));
        const commands = [...use.matchAll(/<pre><code>([^]*?)<\/code>/g)].map(([, one = ""]) => textIn(one));
        expect(commands.slice(0, 4)).toEqual([
            String.raw`npm run chat -- --stack 'it'\''s'`,
            String.raw`npm run webui -- --stack 'it'\''s'`,
            String.raw`npm run api -- --stack 'it'\''s'`,
            `curl ADDRESS/chat/completions -H "Authorization: Bearer $(cat KEYFILE)" -H 'Content-Type: application/json' ` +
                String.raw`-d '{"model":"retune","messages":[{"role":"user","content":"你是一名医生。\n感冒了应该怎么办？"}]}'`,
        ]);
        expect(textIn(use)).toContain("It is at http://127.0.0.1:8000/v1 on the stack's target");
        const keyFile = "/home/me/.retune/services/8000/key";
        const here = await renderReport({ ...served, service: { address: "http://127.0.0.1:8000/v1", keyFile } });
        expect(textIn(here)).toContain(
            `its key is in a file there: curl http://127.0.0.1:8000/v1/chat/completions -H "Authorization: Bearer $(cat '${keyFile}')" -H `,
        );
        expect(await textOf()).toContain(
            "with retune:service: { enabled: true } in Pulumi.dev.yaml: npm run up -- --stack dev",
        );
        expect(textIn(await renderReport(refused))).toContain("npm run chat -- --stack dev --compare incumbent");
    });
});

describe("a service that did not come up", () => {
    const stages: ReportData["stages"] = [...data.stages, { ...service, action: "failed", reasons: ["no memory"] }];

    test("is enabled already, and nothing serves where nothing served before", async () => {
        const text = textIn(await renderReport({ ...data, stages }));
        expect(text).toContain(
            "As an OpenAI-compatible API: The service did not come up with this model; its stage above says why. " +
                "Once that is put right, this starts it: npm run up -- --stack dev In a terminal",
        );
        expect(text).not.toMatch(/enabled: true|goes on serving/);
        expect(textIn(await renderReport({ ...data, stages, language: "zh" }))).toContain(
            "作为兼容 OpenAI 的 API： 服务未能用此模型启动，原因见上面的服务阶段。排除原因后，用下面的命令启动： npm run up",
        );
    });

    test("has the address of the model before, where that goes on serving", async () => {
        const serving = { ...served, stages };
        expect(textIn(await renderReport(serving))).toContain(
            "As an OpenAI-compatible API: The service did not come up with this model. The model before it goes on serving. " +
                "It is at http://127.0.0.1:8000/v1 on the stack's target.",
        );
        expect(textIn(await renderReport({ ...serving, language: "zh" }))).toContain(
            "服务未能用此模型启动，之前的模型继续提供服务。 位于堆栈目标机器的 http://127.0.0.1:8000/v1",
        );
    });
});

describe("a first model that is refused", () => {
    const first: ReportData = {
        ...refused,
        hasModel: false,
        stages: [...refused.stages, { ...service, action: "skipped", reasons: [], seconds: 0 }],
    };

    test("leaves the stack without one: its page speaks of no model before it, and compares with the base", async () => {
        const text = textIn(await renderReport(first));
        expect(text).toContain("A condition of the gate does not hold, and the stack has no model yet.");
        expect(text).toContain(
            "Nothing was exported, because the model was refused, and the stack has no model yet. The adapter that was refused " +
                "is here: /data/adapter Talk to it, and to the base model beside it: npm run chat -- --stack dev --compare base",
        );
        expect(text).toContain("service skipped Not run, because the model was refused.");
        expect(text).not.toMatch(/the one before|--compare incumbent/);
        expect(renderMarkdown(first)).toContain("and the stack has no model yet");
    });

    test("and says so in Chinese", async () => {
        const text = textIn(await renderReport({ ...first, language: "zh" }));
        expect(text).toContain("有门槛条件未满足，堆栈还没有模型。");
        expect(text).toContain("模型被拒绝，因此没有导出，堆栈还没有模型。被拒绝的适配器在这里：");
        expect(text).toContain("与它对话，并同时与基础模型对话： npm run chat -- --stack dev --compare base");
        expect(text).not.toContain("之前的模型");
    });
});

describe("in Chinese", () => {
    test("every word of the page's own is Chinese", async () => {
        const text = textIn(await renderReport({ ...refused, language: "zh" }));
        expect(text).toContain("被拒绝 有门槛条件未满足");
        expect(text).toContain("本次更新用时 3 分 4 秒；预计 2 分 30 秒。");
        expect(text).toContain("丢弃： question 重复 301");
        expect(text).toContain("export 导出 跳过 模型被拒绝，因此没有运行。");
        expect(text).toContain("不如现任模型： 测试损失 0.48 → 0.59");
        expect(textIn(await renderReport({ ...served, language: "zh" }))).toContain("用时 9 秒 后开始提供此模型。");
        expect(text).toContain("未满足 对“感冒了应该怎么办？”的回答不包含“医生”（必须包含）");
        expect(text).toContain("测试数据只有 20 行，少于 30 行：结论可能是偶然");
        const page = await renderReport({ ...data, language: "zh" });
        expect(page).toContain('<html lang="zh">');
        expect(page).not.toMatch(/>\s*(Verdict|Answers|Stages|Curves|Metrics|Data set|Provenance|Base model|Took)\b/);
    });

    // As the gate says them: each kind of finding and warning once.
    test("the gate's sentences are made of its data", () => {
        const { condition, warning } = wordsOf("zh");
        const about = { text: "in English", held: false, against: "base", metric: "evalLoss" } as const;
        const compared = {
            ...about,
            tuned: 0.59,
            other: 0.48,
            finding: { kind: "compared", gain: -0.11, allowed: 0.05 },
        } as const;
        const none = { ...about, tuned: null, other: null };
        const phrase = { prompt: "A cold?", phrase: "water" };
        expect(
            [
                compared,
                { ...compared, finding: { ...compared.finding, perTunedToken: true } },
                { ...compared, held: true, tuned: 0.4, finding: { kind: "compared", gain: 0.08, allowed: 0 } },
                {
                    ...compared,
                    held: true,
                    metric: "rougeL",
                    tuned: 0.48,
                    finding: { kind: "compared", gain: 0, allowed: 0 },
                },
                { ...compared, against: "threshold", finding: { kind: "compared", gain: -0.11, allowed: 0 } },
                { ...none, against: "incumbent", tuned: 0.59, finding: { kind: "first" } },
                { ...none, finding: { kind: "broken", rows: 2, of: 1000 } },
                { ...none, finding: { kind: "unmeasured" } },
                { ...none, against: "phrase", finding: { kind: "phrase", ...phrase, says: true, forbidden: true } },
                { ...none, against: "phrase", finding: { kind: "silent", questions: 4 } },
            ].map((one) => condition(one as Parameters<typeof condition>[0])),
        ).toEqual([
            "测试损失 0.5900，基础模型为 0.4800：更差，相差 0.1100，允许 0.05",
            "测试损失 0.5900，基础模型为 0.4800（按微调模型的词元计）：更差，相差 0.1100，允许 0.05",
            "测试损失 0.4000，基础模型为 0.4800：更好，相差 0.0800",
            "ROUGE-L 0.48，基础模型为 0.48：相同",
            "测试损失 0.5900，界限为 0.4800：更差，相差 0.1100",
            "测试损失：还没有现任模型可比较",
            "微调模型的测试损失在 1,000 行中有 2 行不是数值",
            "测试损失：没有可以测量的测试数据",
            "对“A cold?”的回答包含“water”（不得包含）",
            "微调模型对 4 个问题都没有回答任何内容",
        ]);
        const text = "in English";
        expect(
            (
                [
                    { kind: "fewRows", text, rows: 4, least: 30 },
                    { kind: "fewRows", text, rows: 4, least: 30, metric: "rougeL" },
                    { kind: "chance", text, condition: 0, certainty: 0.863 },
                    { kind: "leftOut", text, metric: "evalLoss", against: "base", rows: 2, of: 1000 },
                    { kind: "known", text, rows: 25, of: 30 },
                    { kind: "empty", text, answers: 1, of: 4 },
                    { kind: "nothingHeldOut", text },
                ] as const
            ).map((one) => warning(one, [compared])),
        ).toEqual([
            "测试数据只有 4 行，少于 30 行：结论可能是偶然",
            "ROUGE-L 只测量了 4 行，少于 30 行：结论可能是偶然",
            "可能是偶然（置信度 86%）：测试损失 0.5900，基础模型为 0.4800：更差，相差 0.1100，允许 0.05",
            "测试损失与基础模型的比较略去了 1,000 行中的 2 行：两个模型中只有一个在这些行有数值",
            "30 行测试数据中有 25 行属于现任模型的训练数据，它可能已记住这些问题：要公平比较，请恢复原来的 dataset.split；若新模型只是不如现任模型，可用 gate.override 接受它",
            "微调模型的 4 个回答中有 1 个为空",
            "dataset.split.test 为 0，因此没有门槛：更差的模型也会通过",
        ]);
    });

    test("says what was found in the rows, and the notice of the recipe that comes with it", () => {
        const { foundAt, notice } = wordsOf("zh");
        expect(
            [
                'row 28 (train) and row 49 (test), 100 % alike: "How?" and "how and why?"',
                "row 3 is row 1 again",
                'row 7: "138******78"',
                "whatever comes",
            ].map(foundAt),
        ).toEqual([
            '第 28 行（训练）与第 49 行（测试），相似度 100%："How?" 与 "how and why?"',
            "第 3 行与第 1 行相同",
            '第 7 行："138******78"',
            "whatever comes",
        ]);
        expect(notice(huatuoLite.notice)).toBe("演示用途，不是医疗建议：回答可能有误。身体不适请就医。");
        expect(notice("Ask a lawyer.")).toBe("Ask a lawyer.");
    });

    test("says why rows were dropped, in the conversion's terms where it knows none of its own", () => {
        const { dropReason } = wordsOf("zh");
        expect(
            [
                ...["empty answer", "duplicate", "duplicate question", "score below 4", "score above 9.5"],
                ...["score not a number", "label not listed", "whatever comes"],
            ].map(dropReason),
        ).toEqual([
            ...["answer 为空", "重复", "question 重复", "score 低于 4", "score 高于 9.5"],
            ...["score 不是数值", "label 不在允许的值中", "whatever comes"],
        ]);
    });
});
