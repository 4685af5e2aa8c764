"use strict";
const start = require("./start.cjs");

start(["node-modules", "python"], (_tools, args) => require("./api.ts").api(args));
