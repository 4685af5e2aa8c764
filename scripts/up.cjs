"use strict";
const start = require("./start.cjs");

start(["node-modules", "pulumi-cli", "python"], ({ pulumi }, args) =>
    require("./operation.ts").operate("up", args, pulumi),
);
