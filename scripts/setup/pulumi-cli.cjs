// The Pulumi CLI: the one on PATH if its version is one that was tested, else the pinned one, kept in RETUNE_CACHE.
"use strict";
const fs = require("node:fs");
const path = require("node:path");
const { cache, project } = require("../locations.cjs");

const testedVersions = ["3.259.0"];
const pinned = testedVersions[0];

const root = () => path.join(cache(), "pulumi", pinned);
const program = (folder) => path.join(folder, "bin", "pulumi");
const memory = () => path.join(cache(), "pulumi", "on-path.json");

/** The first `pulumi` on PATH and what tells it from another one without starting it. */
function candidate() {
    for (const folder of (process.env.PATH ?? "").split(path.delimiter)) {
        if (!path.isAbsolute(folder)) continue;
        const file = path.join(folder, "pulumi");
        try {
            fs.accessSync(file, fs.constants.X_OK);
            const { mtimeMs, size } = fs.statSync(file);
            return { file, key: `${file} ${mtimeMs} ${size}` };
        } catch {
            // Not in this folder.
        }
    }
    return undefined;
}

function remembered() {
    try {
        return JSON.parse(fs.readFileSync(memory(), "utf8"));
    } catch {
        return {};
    }
}

function find() {
    const other = candidate();
    if (other) {
        const { key, version } = remembered();
        if (key !== other.key) return undefined;
        if (testedVersions.includes(version)) return other.file;
    }
    return fs.existsSync(program(root())) ? program(root()) : undefined;
}

async function versionOf(file) {
    const { ask } = require("./work.cjs");
    const answer = await ask(file, ["version"], { ...process.env, PULUMI_SKIP_UPDATE_CHECK: "true" });
    return answer?.trim().replace(/^v/, "");
}

/** The Automation API's way, in a process of its own so that its output goes to the log and it can be ended. */
const official = {
    script: path.join(__dirname, "official-installer.cjs"),
    env: () => ({ ...process.env, NODE_USE_ENV_PROXY: "1" }),
    async isReachable() {
        const { ask } = require("./work.cjs");
        return (await ask(process.execPath, [this.script], this.env())) !== undefined;
    },
    install(work, folder) {
        const options = { what: "the official installer", env: this.env() };
        return work.run("pulumi-installer", process.execPath, [this.script, folder, pinned], options);
    },
};

function build(work, go, folder) {
    const versionFlag = `-X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=v${pinned}`;
    const args = [
        "build",
        "-mod=readonly",
        "-tags",
        "osusergo,grpcnotrace",
        "-trimpath",
        "-ldflags",
        `-s -w ${versionFlag}`,
    ];
    return work.run(
        "pulumi-build",
        go,
        [...args, "-o", program(folder), "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi"],
        {
            what: "go build",
            cwd: path.join(project, "tools", "pulumi"),
            env: { ...process.env, GOWORK: "off" },
        },
    );
}

/** Fills a folder beside the final one and renames it, so that a half-made CLI is never taken for a whole one. */
async function intoPlace(fill) {
    const { diskUse } = require("./work.cjs");
    const { UserError } = require("./user-error.cjs");
    const partial = `${root()}.partial`;
    fs.rmSync(partial, { recursive: true, force: true });
    fs.mkdirSync(path.join(partial, "bin"), { recursive: true });
    await fill(partial);
    const version = await versionOf(program(partial));
    if (version !== pinned) {
        throw new UserError(
            `set-up: the new Pulumi CLI says its version is ${version ?? "nothing at all"}, not ${pinned}. ` +
                `Install Pulumi ${pinned} yourself (https://www.pulumi.com/docs/install/) and put it on PATH.`,
        );
    }
    fs.rmSync(root(), { recursive: true, force: true });
    fs.renameSync(partial, root());
    return diskUse(root());
}

async function install(work, installer = official) {
    const { onPath, writeWhole } = require("./work.cjs");
    const { UserError } = require("./user-error.cjs");
    const other = candidate();
    let version;
    if (other) {
        version = await versionOf(other.file);
        fs.mkdirSync(path.dirname(memory()), { recursive: true });
        writeWhole(memory(), JSON.stringify({ key: other.key, version }));
        if (testedVersions.includes(version)) return other.file;
    }
    if (fs.existsSync(program(root()))) return program(root());

    const why = other ? ` (the one on PATH, ${version ?? "of unknown version"}, is not a tested version)` : "";
    const what = `Pulumi CLI ${pinned}`;
    const go = onPath("go");
    if (await installer.isReachable()) {
        try {
            const announcement = `${what} by the official installer, some hundred MB (once)${why}`;
            await work.step({ name: "pulumi-installer", what, announcement }, () =>
                intoPlace((folder) => installer.install(work, folder)),
            );
            return program(root());
        } catch (error) {
            if (error.name !== "UserError" || !go) throw error;
            work.log(error.message);
        }
    }
    if (!go) {
        throw new UserError(
            [
                `set-up: Pulumi CLI ${pinned} is needed${why}, but the site of its installer (get.pulumi.com) cannot be reached from here and there is no Go to build it with.`,
                `Either install Pulumi ${pinned} yourself and put it on PATH, or install Go (https://go.dev/dl/), then start again.`,
            ].join("\n"),
        );
    }
    const announcement = `${what} built with Go${why}, since the official installer cannot be had: about 4 minutes on 2 cores, 115 MB, and 3 GB of Go caches (once)`;
    await work.step({ name: "pulumi-build", what, announcement }, () => intoPlace((folder) => build(work, go, folder)));
    return program(root());
}

module.exports = { find, install };
