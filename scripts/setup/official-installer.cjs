// The Pulumi CLI by the Automation API.
//
//     node official-installer.cjs                  only looks whether the installer's site can be reached
//     node official-installer.cjs ROOT VERSION     installs
"use strict";
const { createRequire } = require("node:module");

async function main([root, version]) {
    if (root === undefined) {
        await fetch("https://get.pulumi.com/install.sh", { method: "HEAD", signal: AbortSignal.timeout(5000) });
        return;
    }
    const { PulumiCommand } = require("@pulumi/pulumi/automation");
    const { SemVer } = createRequire(require.resolve("@pulumi/pulumi/package.json"))("semver");
    await PulumiCommand.install({ root, version: new SemVer(version) });
}

main(process.argv.slice(2)).catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
});
