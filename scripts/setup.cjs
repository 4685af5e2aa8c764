// Sees to everything that a start needs on a fresh machine: node modules, the Pulumi CLI, the Python environment with
// LLaMA-Factory and the default model. Nothing of it is done twice, and when all is there only a few files are read.
//
//     node scripts/setup.cjs [node-modules] [pulumi-cli] [python]
"use strict";
const steps = {
    "node-modules": require("./setup/node-modules.cjs"),
    "pulumi-cli": require("./setup/pulumi-cli.cjs"),
    "python": require("./setup/python.cjs"),
};

/**
 * `only` limits it to some steps, `log` takes the lines for people (standard error otherwise). Answers where the
 * Pulumi CLI and the environment's Python are, as far as they were asked for.
 */
async function setup({ only = Object.keys(steps), log } = {}) {
    const { UserError } = require("./setup/user-error.cjs");
    const chosen = Object.keys(steps).filter((name) => only.includes(name));
    const unknown = only.find((name) => !Object.hasOwn(steps, name));
    if (unknown) {
        throw new UserError(`There is no set-up step "${unknown}": the steps are ${Object.keys(steps).join(", ")}.`);
    }
    const found = new Map(chosen.map((name) => [name, steps[name].find()]));
    if ([...found.values()].includes(undefined)) {
        await require("./setup/work.cjs").underLock(log, async (work) => {
            for (const name of chosen) {
                // Again, because another set-up may have done it while this one waited.
                const path = steps[name].find() ?? (await steps[name].install(work));
                found.set(name, path);
            }
        });
    }
    return { pulumi: found.get("pulumi-cli"), python: found.get("python") };
}

module.exports = { setup };

if (require.main === module) {
    const only = process.argv.slice(2);
    setup(only.length > 0 ? { only } : {}).catch((error) => {
        console.error(error.name === "UserError" ? error.message : error);
        process.exitCode = 1;
    });
}
