import * as fs from "node:fs";
import * as path from "node:path";
import { project } from "../locations.cjs";
import { sideBySide, type Benchmark } from "./benchmark";
import { ratioOf } from "./result";

const task = path.join(project, "scripts", "bench", "task.cjs");

export const restore: Benchmark = {
    name: "restore",
    what: "a 250 MB artifact verified and taken from the store, to `cp` + `sha256sum`",
    async run(place, runs) {
        const home = place.make("home");
        const run = (name: "artifact" | "find") => place.run([process.execPath, task, name, home], { cwd: home });
        place.say("  writing an artifact of 250 MB");
        const digest = (await run("artifact")).stdout.trim();
        const artifact = path.join(home, "store", digest);
        const ours = async () => {
            place.forgetDigests();
            const { seconds, stdout } = await run("find");
            if (stdout.trim() !== digest) throw new Error("the store found another artifact");
            return seconds;
        };
        const peer = async () => {
            const copy = path.join(place.make("copy"), "artifact");
            const script = 'cp -r "$1" "$2" && cd "$2" && sha256sum *';
            const { seconds } = await place.run(["sh", "-c", script, "sh", artifact, copy], { cwd: home });
            fs.rmSync(path.dirname(copy), { recursive: true });
            return seconds;
        };
        const measured = await sideBySide(place, runs, ours, peer);
        const ratio = ratioOf(measured.ours, measured.peer);
        return {
            unit: "s",
            ours: measured.ours,
            ...(measured.peer === undefined || ratio === undefined ? {} : { peer: measured.peer, ratio }),
            peerName: "cp + sha256sum",
            limits: [{ value: ratio, relation: "≤", bound: 1.5, unit: "×" }],
            samples: measured.samples,
            notes: [
                "ours with the start of Node and without any remembered digest; files are in the page cache for both",
            ],
        };
    },
};
