"use strict";
const start = require("./start.cjs");

start(["node-modules", "pulumi-cli", "python"], (tools, args) => require("./bench.ts").bench(args, tools));
