// The pack itself, for `pulumi preview --policy-pack policy` and `pulumi up --policy-pack policy` with a full Pulumi. Its one
// dependency, @pulumi/policy, is installed here (`npm install` in this folder); nothing else of Retune needs it.
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
