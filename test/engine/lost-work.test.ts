import * as fs from "node:fs";
import * as path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { isAlive, eventually, killNow } from "./processes";
import { all, Rig } from "./rig";

const STEPS = ["--set", "training.maxSteps=20"]; // a checkpoint every five

let rig: Rig;
beforeAll(() => {
    rig = new Rig();
});
afterAll(() => rig.dispose());

const files = (key: string) => path.join(rig.home, "runs", key);
const read = (key: string, name: string) => fs.readFileSync(path.join(files(key), name), "utf8");

test("a training that is killed resumes, and says how much was lost: in its progress, its result and the report", async () => {
    const up = rig.spawn("up", STEPS);
    const run = await up.until("a step beyond the first checkpoint", () => {
        const active = rig.active("Training");
        return active !== undefined && active.steps.length >= 8 ? active : undefined;
    });
    rig.pause();
    // Of several clients each sees the same log, whenever it comes.
    const early = rig.spawn("logs", [run.key.slice(0, 12)]);
    await early.until("the log", () => early.stdout.includes("***** Running training *****"));
    killNow(run.pid);
    await eventually("the supervisor is gone", () => !isAlive(run.pid ?? 0));
    const failed = await up.ended;
    expect(failed.code).toBe(1);
    const name = run.key.slice(0, 12);
    expect(failed.stdout).toContain(`run ${name} lost: its process is gone without a result\n`);
    expect(failed.stdout).toContain(`\`npm run up\` resumes it; its log: npm run logs -- ${name}\n`);
    const done = rig.runs("Training").at(-1)?.steps.at(-1) ?? 0;
    expect(await early.ended).toMatchObject({ code: 0, stdout: read(run.key, "log") });

    const again = rig.spawn("up", ["--json", ...STEPS]);
    await again.until("the second attempt", () => (rig.active("Training")?.attempt === 2 ? true : undefined));
    const late = rig.spawn("logs", [name]);
    const { code, stdout } = await again.ended;
    expect(code).toBe(0);
    const answer = JSON.parse(stdout) as { stages: { name: string; action: string; facts: object; uri: string }[] };
    expect(Object.fromEntries(answer.stages.map((stage) => [stage.name, stage.action]))).toEqual(
        all("ran", { dataset: "unchanged", model: "unchanged" }),
    );
    expect(answer.stages.find((stage) => stage.name === "training")?.facts).toMatchObject({ steps: 20 });

    const note = /"resumed from the checkpoint at step (\d+); (\d+) steps \(([\d.]+) s\) done after it are lost"/;
    const [, from, lost, seconds] = note.exec(read(run.key, "events.jsonl")) ?? [];
    expect(Number(from) % 5).toBe(0);
    expect(Number(from) + Number(lost)).toBe(done);
    const result = JSON.parse(read(run.key, "result.json")) as { metrics: object; seconds: number };
    expect(result.metrics).toMatchObject({ lostSteps: Number(lost), lostSeconds: Number(seconds) });
    const report = answer.stages.find((stage) => stage.name === "report")?.uri ?? "";
    const page = fs.readFileSync(new URL(`${report}/report.html`), "utf8");
    expect(page).toContain(`The training was interrupted: ${lost ?? ""} steps (`);
    expect(page).toContain(") after the last checkpoint were lost and done again.");

    expect(await late.ended).toMatchObject({ code: 0, stdout: read(run.key, "log") });
    expect((await rig.run("logs", name)).stdout).toBe(read(run.key, "log"));
    expect((await rig.json("up", ...STEPS)).actions).toEqual(all("unchanged"));
});
