"use strict";
const start = require("./start.cjs");

start(["node-modules"], (_tools, args) => require("./status.ts").status(args));
