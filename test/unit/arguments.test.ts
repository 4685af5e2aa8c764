import { execFile } from "node:child_process";
import * as os from "node:os";
import * as path from "node:path";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { project } from "../../scripts/locations.cjs";

/** What a command says that is typed so, by the real npm. */
async function typed(...words: string[]) {
    const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith("npm_"));
    const env = {
        ...Object.fromEntries(inherited),
        ...{ npm_config_update_notifier: "false", npm_config_loglevel: "error" },
        RETUNE_HOME: path.join(os.tmpdir(), "retune-no-home"),
    };
    const failed = (error: unknown) => error as { code: number; stdout: string; stderr: string };
    const { code, stdout, stderr } = await promisify(execFile)("npm", ["run", "--silent", ...words], {
        cwd: project,
        env,
    }).then((said) => ({ code: 0, ...said }), failed);
    return { code, stdout, stderr };
}

test.concurrent.each([
    [["status", "--watch"], "--watch", "npm run status -- --watch"],
    [["gc", "--dry-run"], "--dry-run", "npm run gc -- --dry-run"],
    [["report", "--stack=mine", "--markdown"], "--stack and --markdown", "npm run report -- --stack mine --markdown"],
    [["report", "--generation", "2"], "--generation", "npm run report -- --generation <number>"],
])("what npm takes of `npm run %j` is not ignored, and the right way is said", async (words, taken, right) => {
    const stderr = `npm has taken ${taken} for itself; options of a command come after \`--\`: \`${right}\`\n`;
    expect(await typed(...words)).toEqual({ code: 2, stdout: "", stderr });
});

test.concurrent("options after `--` reach the command", async () => {
    const { code, stdout, stderr } = await typed("status", "--", "--json");
    expect({ code, stderr, answer: JSON.parse(stdout) as unknown }).toEqual({
        ...{ code: 0, stderr: "" },
        answer: { stacks: [], runs: [], uploads: [], machines: [] },
    });
});
