// The pack itself, for `npm run up -- --policy-pack policy` and `preview`, and for `pulumi` from a shell.
"use strict";
const { PolicyPack } = require("@pulumi/policy");
require("../scripts/ts.cjs");
const { rules } = require("./rules.ts");
const settings = require("./settings.json");

new PolicyPack("retune", {
    enforcementLevel: "mandatory",
    policies: rules(settings).map(({ name, description, broken }) => ({
        name,
        description,
        validateResource: ({ type, props }, report) => broken({ type, props }).forEach((message) => report(message)),
    })),
});
