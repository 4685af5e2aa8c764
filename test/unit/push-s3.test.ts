import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { expect, onTestFinished, test, vi } from "vitest";
import { S3Place } from "../../pipeline/push/s3";
import { keepSecrets } from "../../pipeline/secrets";

/** A place whose rclone is a stand-in that writes down what it was given, with the stack's secrets. */
function rig(secrets: Record<string, string>) {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), "retune-s3-"));
    const runtime = path.join(folder, "runtime");
    fs.mkdirSync(runtime);
    const script =
        `cd ${folder}; tr '\\0' '\\n' < /proc/$$/environ > environment; echo "$@" > arguments; ` +
        'cat "$RCLONE_CONFIG" > configuration; stat -L -c %a "$RCLONE_CONFIG" > mode; ' +
        '[ ! -e fails ] || { echo "no" >&2; exit 1; }; echo "[]"';
    fs.writeFileSync(path.join(folder, "rclone"), `#!/bin/sh\n${script}\n`, { mode: 0o700 });
    vi.stubEnv("PATH", `${folder}:${process.env["PATH"] ?? ""}`);
    vi.stubEnv("XDG_RUNTIME_DIR", runtime);
    keepSecrets(secrets);
    onTestFinished(() => {
        vi.unstubAllEnvs();
        keepSecrets({ s3AccessKeyId: "", s3SecretAccessKey: "" });
        fs.rmSync(folder, { recursive: true });
    });
    const place = new S3Place({ bucket: "models", prefix: "cold" }, new AbortController().signal);
    const said = (name: string): string => fs.readFileSync(path.join(folder, name), "utf8");
    return { folder, runtime, place, said };
}

test("the stack's keys are in no environment and no argument, and in a file of this user for as long as rclone runs", async () => {
    const { folder, runtime, place, said } = rig({
        ...{ s3AccessKeyId: "AKIDcanary", s3SecretAccessKey: "se/cret+canary=\n" }, // as a file has it
    });
    expect(await place.look()).toEqual({ files: {} });
    expect(said("environment") + said("arguments")).not.toContain("canary");
    expect(said("environment")).not.toContain("RCLONE_CONFIG_PUSH_ENV_AUTH");
    expect(said("configuration")).toBe("[push]\naccess_key_id = AKIDcanary\nsecret_access_key = se/cret+canary=\n");
    expect(said("mode")).toBe("600\n");
    expect(said("environment")).toContain(`RCLONE_CONFIG=${runtime}/retune-push-`);
    expect(fs.readdirSync(runtime)).toEqual([]);
    fs.writeFileSync(path.join(folder, "fails"), "");
    await expect(place.look()).rejects.toThrow("s3://models/cold refuses: no");
    expect(fs.readdirSync(runtime)).toEqual([]);
});

test("without keys of the stack, those that AWS's own tools take are rclone's business, and there is no file", async () => {
    const { runtime, place, said } = rig({});
    expect(await place.look()).toEqual({ files: {} });
    expect(said("environment")).toContain("RCLONE_CONFIG_PUSH_ENV_AUTH=true\n");
    expect(said("environment")).toContain("RCLONE_CONFIG=/dev/null\n");
    expect(fs.readdirSync(runtime)).toEqual([]);
});

test.each([["canary\nendpoint = https://elsewhere.example"], ["canary key"], ["`canary"], ['"""canary']])(
    "a key that would mean something else in rclone's file is refused and not repeated: %j",
    async (s3SecretAccessKey) => {
        const { runtime, place } = rig({ s3AccessKeyId: "AKIDcanary", s3SecretAccessKey });
        await expect(place.look()).rejects.toThrow(
            /^finetune:s3SecretAccessKey is no key: it holds (white space, a quote or a letter|a line break or another character) that no key has$/,
        );
        expect(fs.readdirSync(runtime)).toEqual([]);
    },
);
