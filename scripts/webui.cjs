"use strict";
const start = require("./start.cjs");

start(["node-modules", "python"], (_tools, args) => require("./webui.ts").webui(args));
