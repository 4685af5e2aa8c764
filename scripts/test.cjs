// `npm test`: set-up if needed, checks, then the tests from fastest to slowest. The first layer that fails ends it, since
// what is slow would only fail for the same reason.
"use strict";
const { spawnSync } = require("node:child_process");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const start = require("./start.cjs");
const { project } = require("./locations.cjs");

const LAYERS = ["unit", "provider", "engine", "host", "aws"];

function run(command, args) {
    const bin = path.join(project, "node_modules", ".bin");
    const env = { ...process.env, PATH: `${bin}${path.delimiter}${process.env.PATH}` };
    return spawnSync(command, args, { cwd: project, stdio: "inherit", env }).status ?? 1;
}

/** vitest's own summary is in its colours; the counts are read from its report. */
function test(layer, folder) {
    const report = path.join(folder, `${layer}.json`);
    const status = run("vitest", [
        "run",
        "--project",
        layer,
        "--reporter=default",
        "--reporter=json",
        `--outputFile.json=${report}`,
    ]);
    const counts = fs.existsSync(report) ? JSON.parse(fs.readFileSync(report, "utf8")) : {};
    return {
        passed: counts.numPassedTests ?? 0,
        failed: (counts.numFailedTests ?? 0) + (status !== 0 && !counts.numFailedTests ? 1 : 0),
        skipped: (counts.numPendingTests ?? 0) + (counts.numTodoTests ?? 0),
    };
}

start(["node-modules", "pulumi-cli", "python"], (_tools, args) => {
    const layers = args.length > 0 ? args : LAYERS;
    if (args.length === 0 && run("npm", ["run", "--silent", "check"]) !== 0) return 1;
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), "retune-test-"));
    const sum = { passed: 0, failed: 0, skipped: 0 };
    try {
        for (const layer of layers) {
            const counts = test(layer, folder);
            for (const name of Object.keys(sum)) sum[name] += counts[name];
            if (counts.failed > 0) break;
        }
    } finally {
        fs.rmSync(folder, { recursive: true, force: true });
    }
    console.log(`${sum.passed} passed, ${sum.failed} failed, ${sum.skipped} skipped`);
    return sum.failed === 0 ? 0 : 1;
});
