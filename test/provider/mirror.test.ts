// A mirror that is a folder, or a server that does not answer, through the real rclone.
import { spawnSync } from "node:child_process";
import { appendFileSync, existsSync, readdirSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import path from "node:path";
import { describe, expect, onTestFinished, test, vi } from "vitest";
import { sendPending } from "../../pipeline/store/mirror";
import { Store } from "../../pipeline/store/store";
import { pendingUploads } from "../../pipeline/store/uploads";
import { read } from "../unit/processes";
import { model } from "./inputs";
import { rigForTest, type Provider, type Rig } from "./rig";

const rclone = spawnSync("rclone", ["version"]).status === 0;
if (!rclone) console.warn("SKIPPED: mirrors that do not answer. They want rclone on PATH (apt-get install rclone).");

const REFUSED = "dial tcp 127.0.0.1:9: connect: connection refused";
const mirrored = (remote = "mirror:bucket") => ({ ...model, target: { type: "local", mirror: remote } });
const cutOff = {
    RCLONE_CONFIG: "/dev/null",
    RCLONE_CONFIG_MIRROR_TYPE: "s3",
    RCLONE_CONFIG_MIRROR_PROVIDER: "Other",
    RCLONE_CONFIG_MIRROR_ENDPOINT: "http://127.0.0.1:9",
    RCLONE_CONFIG_MIRROR_ACCESS_KEY_ID: "a",
    RCLONE_CONFIG_MIRROR_SECRET_ACCESS_KEY: "b",
};
const reachable = (rig: Rig) => ({
    RCLONE_CONFIG: "/dev/null",
    RCLONE_CONFIG_MIRROR_TYPE: "alias",
    RCLONE_CONFIG_MIRROR_REMOTE: path.join(rig.folder, "mirror"),
});
const warnings = (provider: Provider) => provider.lines.filter((line) => line.warning).map((line) => line.text);
const starts = (rig: Rig) => read(path.join(rig.control, "starts"));

/** What the next `up` does with what is pending. */
async function send(rig: Rig, environment: Record<string, string>): Promise<string[]> {
    for (const [name, value] of Object.entries({ ...environment, RETUNE_CACHE: rig.cache })) vi.stubEnv(name, value);
    vi.stubEnv("AWS_CA_BUNDLE", undefined); // rclone 1.60, Debian's, does not start with one
    onTestFinished(() => {
        vi.unstubAllEnvs();
    });
    const said: string[] = [];
    await sendPending(new Store(rig.home), pendingUploads(rig.home), (text) => said.push(text));
    vi.unstubAllEnvs();
    return said;
}

/** An S3 that has nothing, and does not answer a method; `hangs` is when it is asked for it. */
async function hanging(method: string): Promise<{ endpoint: string; hangs: Promise<void> }> {
    let hung: () => void = () => undefined;
    const hangs = new Promise<void>((resolve) => (hung = resolve));
    const server = createServer((request, response) => {
        if (request.method === method) hung();
        else response.writeHead(404).end();
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    onTestFinished(() => {
        server.closeAllConnections();
        server.close();
    });
    return { endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, hangs };
}

describe.skipIf(!rclone)("a mirror", () => {
    test("that does not answer costs nothing but a warning: the run counts, and is sent later", async () => {
        const rig = rigForTest();
        const provider = await rig.start(cutOff);
        const { inputs } = await provider.check("Model", mirrored());
        const { outputs } = await provider.create("Model", inputs, { preview: true });
        expect(outputs["action"]).toBe("would-run");
        const made = (await provider.create("Model", inputs)).outputs;
        const [key, run] = [made["key"] as string, made["run"] as string];
        expect(made["action"]).toBe("ran");
        await provider.lasting(4);
        const [preview, fetching, sending, ...more] = warnings(provider);
        const down = `the mirror mirror:bucket cannot be reached: ${REFUSED}`;
        expect(preview).toBe(`${down}; this plan cannot tell what it has`);
        expect(fetching).toBe(`${down}; what it may have runs again`);
        expect(sending).toBe(`${down}; run ${run} counts, and the next \`npm run up\` sends it`);
        expect(more).toEqual([]);
        expect(pendingUploads(rig.home)).toEqual([{ key, remote: "mirror:bucket" }]);

        const [problem, ...rest] = await send(rig, cutOff);
        expect(problem).toBe(`warning: ${down}; the next \`npm run up\` sends 1 result`);
        expect([rest, pendingUploads(rig.home).length]).toEqual([[], 1]);

        expect(await send(rig, reachable(rig))).toEqual(["sent 1 result of earlier updates to the mirror"]);
        expect(pendingUploads(rig.home)).toEqual([]);
        expect(existsSync(path.join(rig.folder, "mirror", "bucket", "runs", key, "result.json"))).toBe(true);

        // A fresh machine takes it from there.
        const fresh = await rig.start({ ...reachable(rig), RETUNE_HOME: path.join(rig.folder, "fresh") });
        expect((await fresh.create("Model", inputs)).outputs).toMatchObject({
            action: "cached",
            digest: made["digest"],
        });
        expect(starts(rig)).toBe("Model\n");
    });

    test("that answers again gets what is asked for in an update, too, and nothing stays pending", async () => {
        const rig = rigForTest();
        const { inputs } = await (await rig.start()).check("Model", mirrored());
        await (await rig.start(cutOff)).create("Model", inputs);
        expect(pendingUploads(rig.home)).toHaveLength(1);
        const provider = await rig.start(reachable(rig));
        expect((await provider.create("Model", inputs)).outputs["action"]).toBe("cached");
        expect([pendingUploads(rig.home), warnings(provider)]).toEqual([[], []]);
    });

    test.each([
        ["is not configured", "nowhere:bucket", "didn't find section in config file"],
        ["is of no known type", "odd:bucket", 'didn\'t find backend called "nosuch"'],
    ])("that %s is a mistake that is said at once, and nothing runs", async (_, remote, words) => {
        const rig = rigForTest();
        const provider = await rig.start({ ...cutOff, RCLONE_CONFIG_ODD_TYPE: "nosuch" });
        const { inputs } = await provider.check("Model", mirrored(remote));
        for (const preview of [true, false]) {
            await expect(provider.create("Model", inputs, { preview })).rejects.toMatchObject({
                details: expect.stringMatching(
                    new RegExp(`^the mirror ${remote} cannot be used: Failed to create file system for .*: ${words}$`),
                ) as unknown,
            });
        }
        expect(starts(rig)).toBe("");
    });

    test.each([
        ["asked", "GET", "interrupted", 0],
        ["sent to", "PUT", "ran", 1],
    ])(
        "that hangs while it is %s does not hold up an update that is cancelled",
        async (_, method, outcome, uploads) => {
            const rig = rigForTest();
            const { inputs } = await (await rig.start()).check("Model", mirrored());
            const { endpoint, hangs } = await hanging(method);
            const provider = await rig.start({ ...cutOff, RCLONE_CONFIG_MIRROR_ENDPOINT: endpoint });
            const creating = provider.create("Model", inputs).then(
                ({ outputs }) => outputs["action"],
                () => "interrupted",
            );
            await hangs;
            const cancelled = performance.now();
            await provider.cancel();
            expect(await creating).toBe(outcome);
            expect(performance.now() - cancelled).toBeLessThan(5000);
            expect(pendingUploads(rig.home)).toHaveLength(uploads);
            expect(await send(rig, reachable(rig))).toHaveLength(uploads);
            expect((await (await rig.start(reachable(rig))).create("Model", inputs)).outputs["action"]).toBe(
                outcome === "ran" ? "cached" : "ran",
            );
        },
    );

    test("is not sent what is not as it was made", async () => {
        const rig = rigForTest();
        const { inputs } = await (await rig.start()).check("Model", mirrored());
        const { outputs } = await (await rig.start(cutOff)).create("Model", inputs);
        appendFileSync(path.join(rig.home, "store", outputs["digest"] as string, "config.json"), "x");
        const what = `the artifact of run ${outputs["run"] as string} is not sent to the mirror mirror:bucket: config.json was altered`;
        const wayOut = "`npm run refresh`, then `npm run up` bring it back";
        expect(await send(rig, reachable(rig))).toEqual([
            `warning: ${what}; ${wayOut}; the next \`npm run up\` sends 1 result`,
        ]);
        expect(existsSync(path.join(rig.folder, "mirror"))).toBe(false);
        expect(pendingUploads(rig.home)).toHaveLength(1);
        // Repaired, it is sent.
        expect((await (await rig.start(reachable(rig))).create("Model", inputs)).outputs["action"]).toBe("ran");
        expect(readdirSync(path.join(rig.folder, "mirror", "bucket")).sort()).toEqual(["runs", "store"]);
        expect(pendingUploads(rig.home)).toEqual([]);
    });
});
