"use strict";
const start = require("./start.cjs");

start(["node-modules"], (_tools, args) => require("./report.ts").report(args));
