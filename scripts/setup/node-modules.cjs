// The node modules of package-lock.json, installed without install scripts: esbuild and @duckdb/node-api bring their
// binaries as packages of their own, so no package here needs its script.
"use strict";
const crypto = require("node:crypto");
const fs = require("node:fs");
const path = require("node:path");
const locations = require("../locations.cjs");

const stampIn = (project) => path.join(project, "node_modules", ".retune");

function lockDigest(project) {
    return crypto
        .createHash("sha256")
        .update(fs.readFileSync(path.join(project, "package-lock.json")))
        .digest("hex");
}

/**
 * The folder, when it was seen to be whole and nothing at its top was added or taken away since (its time would be
 * later than the stamp's).
 */
function find(project = locations.project) {
    const folder = path.join(project, "node_modules");
    const stamp = stampIn(project);
    try {
        if (fs.readFileSync(stamp, "utf8") !== lockDigest(project)) return undefined;
        return fs.statSync(stamp).mtimeMs >= fs.statSync(folder).mtimeMs ? folder : undefined;
    } catch (error) {
        if (error.code === "ENOENT" || error.code === "ENOTDIR") return undefined;
        throw error;
    }
}

const fits = (list, value) => !list || list.includes(value) || (list[0].startsWith("!") && !list.includes(`!${value}`));

/** Whether npm must have installed this entry of the lock file here. Which C library is at work only npm knows. */
function isNeeded(entry) {
    if (entry.dev || entry.link || entry.libc) return false;
    if (!entry.optional) return true;
    return Boolean(entry.os ?? entry.cpu) && fits(entry.os, process.platform) && fits(entry.cpu, process.arch);
}

/** Whether what is there is what the lock file says: npm notes what it installed, and only when it is done. */
function isWhole(project) {
    const read = (...names) => JSON.parse(fs.readFileSync(path.join(project, ...names), "utf8")).packages;
    let installed;
    try {
        installed = read("node_modules", ".package-lock.json");
    } catch {
        return false;
    }
    const wanted = read("package-lock.json");
    const same = (name) =>
        installed[name]?.version === wanted[name]?.version && installed[name]?.integrity === wanted[name]?.integrity;
    return (
        Object.keys(installed).every((name) => same(name) && fs.existsSync(path.join(project, name, "package.json"))) &&
        Object.keys(wanted).every((name) => name === "" || !isNeeded(wanted[name]) || same(name))
    );
}

/** Written in place: a rename would give the folder a later time than the stamp's. Half a digest fits no lock file. */
function stamp(project) {
    fs.writeFileSync(stampIn(project), lockDigest(project));
    return path.join(project, "node_modules");
}

function npm() {
    const { onPath } = require("./work.cjs");
    const { UserError } = require("./user-error.cjs");
    const command = onPath("npm");
    if (command) return [command];
    const script = process.env.npm_execpath;
    if (script && path.basename(script) === "npm-cli.js") return [process.execPath, script];
    throw new UserError(
        "npm was not found on PATH. It comes with Node.js: install it (https://nodejs.org), then start again.",
    );
}

/** `npm ci` would empty the folder that a link leads to, which may be another checkout's. */
function refuseLink(folder) {
    const { UserError } = require("./user-error.cjs");
    if (!fs.lstatSync(folder, { throwIfNoEntry: false })?.isSymbolicLink()) return;
    throw new UserError(
        `${folder} is a link to ${fs.readlinkSync(folder)}, where not all is as package-lock.json says: run \`npm ci\` ` +
            "in the project that it belongs to, or remove the link.",
    );
}

async function install(work, project = locations.project) {
    if (isWhole(project)) return stamp(project);
    const { diskUse } = require("./work.cjs");
    const folder = path.join(project, "node_modules");
    refuseLink(folder);
    const [command, ...before] = npm();
    await work.step(
        {
            name: "node-modules",
            what: "node modules",
            announcement: "node modules of package-lock.json, about 400 MB (once)",
        },
        async () => {
            const args = ["ci", "--ignore-scripts", "--include=dev", "--no-audit", "--no-fund", "--no-progress"];
            await work.run("node-modules", command, [...before, ...args], { what: "npm ci", cwd: project });
            stamp(project);
            return diskUse(folder);
        },
    );
    return folder;
}

module.exports = { find, install };
