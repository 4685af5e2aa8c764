"use strict";
const start = require("./start.cjs");

start(["node-modules", "python"], (_tools, args) => require("./gc.ts").gc(args));
