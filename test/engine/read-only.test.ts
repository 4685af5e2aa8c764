import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Rig } from "./rig";

const namespaces = spawnSync("unshare", ["-Urm", "true"]).status === 0;
if (!namespaces)
    console.warn("SKIPPED: a home on a read-only disk. It needs `unshare -Urm`, which is not allowed here.");

describe.skipIf(!namespaces)("a home on a read-only disk", () => {
    let rig: Rig;
    beforeAll(() => {
        rig = new Rig();
        fs.mkdirSync(rig.home);
    });
    afterAll(() => rig.dispose());

    test.each(["up", "preview", "refresh", "destroy"])("keeps %s from starting, in one line", async (command) => {
        const script = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"';
        const words = [process.execPath, `scripts/${command}.cjs`, "--stack", "test"];
        const ended = await rig.start("unshare", ["-Urm", "sh", "-c", script, rig.home, ...words]).ended;
        expect(ended).toMatchObject({
            code: 1,
            stderr: `RETUNE_HOME, ${rig.home}, cannot be used: read-only file system, access '${rig.home}'; set it to a folder that you can write to\n`,
        });
        expect(fs.readdirSync(rig.home)).toEqual([]);
    });
});
